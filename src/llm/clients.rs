//! One worker's connections to providers, and what it has to know to use them.

use std::sync::Arc;

use super::{base_urls::BaseUrls, routing::Routing};
use crate::http_client::{ClientFactory, http1};

/// One worker's clients of providers.
pub struct Providers {
    /// For those that the configuration names.
    pub direct: http1::Client,
    /// For those whose URL a user chose.
    pub guarded: http1::Client,
    /// Where the configuration's are.
    pub base_urls: BaseUrls,
    /// The choice of models.
    pub routing: Arc<Routing>,
}

impl Providers {
    /// Builds a worker's clients.
    pub fn new(clients: &ClientFactory, base_urls: BaseUrls, routing: Arc<Routing>) -> Self {
        Self { direct: clients.providers(), guarded: clients.guarded_providers(), base_urls, routing }
    }
}
