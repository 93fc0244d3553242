//! All components of a server, one `Data` each, and their installation in an app. The only file that knows all of them:
//! handlers take what they need.

use std::{io, sync::Arc};

use actix_web::web::{Data, ServiceConfig};

use super::admission::Admission;
use crate::{
    allowance::{Buffers, Turns},
    auth::Authenticator,
    config::Config,
    credentials::Keys,
    db::Db,
    drain::Drain,
    http::{body::BodyLimits, respond::AnswerSettings, user::TrustedOrigins},
    http_client::{ClientFactory, ssrf_guard},
    llm::{BaseUrls, Providers, circuits::Circuits, learnt::Learnt, routing::Routing},
    rate_limit::RateLimits,
    retrieval::{ingest::Ingest, local::LocalEmbeddings, storage::Storage},
    reverse_proxy::ReverseProxy,
    telemetry::{Gauges, Telemetry},
    tools::ToolClient,
    usage::Ledger,
};

/// The components that all workers share, and the settings of those that each worker has.
#[derive(Clone)]
pub(super) struct Components {
    pub db: Data<Db>,
    pub authenticator: Data<Authenticator>,
    pub rate_limits: Data<RateLimits>,
    pub admission: Data<Admission>,
    pub drain: Data<Drain>,
    pub ingest: Data<Ingest>,
    pub telemetry: Data<Telemetry>,
    pub server_keys: Data<Keys>,
    pub body_limits: Data<BodyLimits>,
    pub answers: Data<AnswerSettings>,
    pub buffers: Data<Buffers>,
    pub turns: Data<Turns>,
    pub trusted_origins: Data<TrustedOrigins>,
    pub ledger: Data<Ledger>,
    worker: WorkerSettings,
}

#[derive(Clone)]
struct WorkerSettings {
    clients: ClientFactory,
    base_urls: BaseUrls,
    routing: Arc<Routing>,
    tool_timeout: std::time::Duration,
    front_end: Option<(url::Url, std::time::Duration)>,
}

impl Components {
    /// Creates the components. Opens no connection.
    ///
    /// # Errors
    /// If TLS, an HTTP client or telemetry cannot be set up.
    pub fn new(config: &Config, lookup: ssrf_guard::Lookup) -> io::Result<Self> {
        // A proxy is for addresses outside this machine.
        let use_proxy = !config.base_urls.all_on_this_machine();
        let clients = ClientFactory::new(config.http_client.clone(), use_proxy, lookup)?;
        let trusted = clients.trusted().map_err(io::Error::other)?;
        let storage = Storage {
            http: trusted.clone(),
            supabase_url: config.sessions.supabase_url.clone(),
            service_key: config.service_role_key.clone(),
            max_file_bytes: config.max_file_bytes,
        };
        #[cfg(feature = "otlp")]
        let telemetry = Telemetry::new(config.otlp.as_ref());
        #[cfg(not(feature = "otlp"))]
        let telemetry = Telemetry::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let buffers = Data::new(Buffers::new(config.max_buffered_bytes));
        let turns = Data::new(Turns::new(cores));
        let ingest = Ingest {
            storage,
            local: LocalEmbeddings::new(config.local_embeddings_dir.clone()),
            turns: turns.clone().into_inner(),
            buffers: buffers.clone().into_inner(),
            max_passages: config.max_passages,
        };
        let db = Db::new(&config.database);
        let components = Self {
            ledger: Data::new(Ledger::new(config.usage, config.keys.clone(), db.clone())),
            db: Data::new(db),
            authenticator: Data::new(Authenticator::new(&config.sessions, trusted)),
            rate_limits: Data::new(RateLimits::new(&config.rate_limit)),
            admission: Data::new(Admission::new(config.max_requests)),
            drain: Data::new(Drain::default()),
            ingest: Data::new(ingest),
            telemetry: Data::new(telemetry.map_err(io::Error::other)?),
            server_keys: Data::from(config.keys.clone()),
            body_limits: Data::new(config.body),
            answers: Data::new(config.answers),
            buffers,
            turns,
            trusted_origins: Data::new(TrustedOrigins(trusted_origins(config))),
            worker: WorkerSettings {
                clients,
                base_urls: config.base_urls.clone(),
                routing: Arc::new(Routing {
                    settings: config.models.clone(),
                    learnt: Learnt::default(),
                    circuits: Circuits::new(&config.keys),
                }),
                tool_timeout: config.tool_timeout,
                front_end: config.frontend_url.clone().map(|url| (url, config.frontend_timeout)),
            },
        };
        // Tried here too, so that a failure stops the start instead of a worker.
        components.worker_clients().map_err(io::Error::other)?;
        Ok(components)
    }

    /// Installs all components in a worker's app.
    pub fn install(&self, app: &mut ServiceConfig) {
        app.app_data(self.db.clone())
            .app_data(self.authenticator.clone())
            .app_data(self.rate_limits.clone())
            .app_data(self.admission.clone())
            .app_data(self.drain.clone())
            .app_data(self.ingest.clone())
            .app_data(self.telemetry.clone())
            .app_data(self.server_keys.clone())
            .app_data(self.body_limits.clone())
            .app_data(self.answers.clone())
            .app_data(self.buffers.clone())
            .app_data(self.turns.clone())
            .app_data(self.trusted_origins.clone())
            .app_data(self.ledger.clone())
            .app_data(Data::new(Providers::new(
                &self.worker.clients,
                self.worker.base_urls.clone(),
                self.worker.routing.clone(),
            )));
        match self.worker_clients() {
            Ok((tools, reverse_proxy)) => {
                app.app_data(Data::new(tools));
                if let Some(reverse_proxy) = reverse_proxy {
                    app.app_data(Data::new(reverse_proxy));
                }
            }
            Err(error) => tracing::error!(%error, "this worker has no HTTP client"),
        }
    }

    fn worker_clients(&self) -> reqwest::Result<(ToolClient, Option<ReverseProxy>)> {
        let WorkerSettings { clients, tool_timeout, front_end, .. } = &self.worker;
        let tools = ToolClient { http: clients.guarded()?, timeout: *tool_timeout };
        let reverse_proxy = match front_end {
            Some((base_url, timeout)) => {
                Some(ReverseProxy { base_url: base_url.clone(), timeout: *timeout, client: clients.front_end()? })
            }
            None => None,
        };
        Ok((tools, reverse_proxy))
    }

    /// Reads the components' current numbers, for `/metrics`.
    pub fn gauges(&self) -> Gauges {
        let buffers = self.buffers.stats();
        let (ledger_waiting, ledger_lost) = self.ledger.stats();
        Gauges {
            pool: self.db.pool_stats(),
            key_set_age: self.authenticator.key_set_age(),
            buffered_bytes: buffers.held,
            refused_for_user: buffers.refused_for_user,
            refused_for_server: buffers.refused_for_server,
            keys_resting: self
                .worker
                .routing
                .circuits
                .readings()
                .iter()
                .map(|it| (it.provider, it.number, it.state == "resting"))
                .collect(),
            ledger_waiting,
            ledger_lost,
        }
    }
}

fn trusted_origins(config: &Config) -> Vec<String> {
    let front_end = config.frontend_url.iter().map(|url| url.origin().ascii_serialization());
    config.cors_origins.iter().cloned().chain(front_end).collect()
}
