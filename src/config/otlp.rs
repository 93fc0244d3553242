//! Settings for exporting traces: OpenTelemetry's own variables, per its specification. They are read here, and not by
//! its crates, since ours may be in `.env` files.

use std::{str::FromStr, time::Duration};

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::reader::{ConfigError, Reader, wrong};
use crate::telemetry::otlp::{Sampling, Settings};

impl Reader<'_> {
    pub(super) fn otlp(&self) -> Result<Option<Settings>, ConfigError> {
        const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let endpoint = match (self.text(TRACES), self.text(BASE)) {
            (Some(url), _) => self.http_url(TRACES, url)?.to_string(),
            (None, Some(url)) => {
                format!("{}/v1/traces", self.http_url(BASE, url)?.as_str().trim_end_matches('/'))
            }
            (None, None) => return Ok(None),
        };
        let off = self.text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if off || self.text("OTEL_TRACES_EXPORTER") == Some("none") {
            return Ok(None);
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match self.text(name) {
                None => {}
                Some("http/protobuf") => break,
                Some(_) => return Err(wrong(name, "must be `http/protobuf`, the only supported protocol")),
            }
        }
        let mut headers = self.pairs("OTEL_EXPORTER_OTLP_HEADERS")?;
        headers.extend(self.pairs("OTEL_EXPORTER_OTLP_TRACES_HEADERS")?);
        Ok(Some(Settings {
            endpoint,
            headers: headers.into_iter().map(|(name, value)| (name, SecretString::from(value))).collect(),
            timeout: Duration::from_millis(self.number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000)?),
            delay: Duration::from_millis(self.number("OTEL_BSP_SCHEDULE_DELAY", 5_000)?),
            service_name: self.text("OTEL_SERVICE_NAME").unwrap_or("chatbot-ui-api").to_owned(),
            attributes: self.pairs("OTEL_RESOURCE_ATTRIBUTES")?,
            sampler: self.sampler()?,
        }))
    }

    fn pairs(&self, name: &'static str) -> Result<Vec<(String, String)>, ConfigError> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            Some((name.trim().to_owned(), value.into_owned())).filter(|(name, _)| !name.is_empty())
        };
        let pairs = self.text(name).unwrap_or_default().split(',').filter(|part| !part.trim().is_empty());
        pairs
            .map(pair)
            .collect::<Option<_>>()
            .ok_or_else(|| wrong(name, "must be name=value,name=value with percent-encoded values"))
    }

    fn sampler(&self) -> Result<Sampling, ConfigError> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let text = self.text(NAME).unwrap_or("parentbased_always_on");
        let (parent_based, kind) = match text.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, text),
        };
        let share = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.share("OTEL_TRACES_SAMPLER_ARG")?,
            _ => {
                return Err(wrong(
                    NAME,
                    "must be `always_on`, `always_off` or `traceidratio`, each with or without the prefix `parentbased_`",
                ));
            }
        };
        Ok(Sampling { parent_based, share })
    }

    fn share(&self, name: &'static str) -> Result<f64, ConfigError> {
        let share = f64::from_str(self.text(name).unwrap_or("1"));
        share
            .ok()
            .filter(|share| (0.0..=1.0).contains(share))
            .ok_or_else(|| wrong(name, "must be a number from 0 to 1"))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::config::Variables;

    fn otlp(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let variables: Variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Reader(&variables).otlp().map_err(|error| error.to_string())
    }

    #[test]
    fn traces_go_where_the_endpoint_is() {
        assert!(otlp(&[]).expect("off").is_none());
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let both = [base, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/in")];
        let endpoint = |variables: &[_]| otlp(variables).expect("right").expect("on").endpoint;
        assert_eq!(endpoint(&[base]), "http://collector:4318/v1/traces");
        assert_eq!(endpoint(&both), "https://traces.example/in");
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert!(otlp(&[base, off]).expect("off").is_none(), "{off:?}");
        }
    }

    #[test]
    fn the_standard_variables_are_heeded() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2, x=1");
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.25")];
        let read = otlp(&[base, headers, ratio[0], ratio[1]]).expect("right").expect("on");
        assert_eq!(read.headers[0].0, "authorization");
        assert_eq!(read.headers[0].1.expose_secret(), "Bearer hunter2");
        assert!(!format!("{read:?}").contains("hunter2"));
        assert_eq!(read.sampler, Sampling { parent_based: false, share: 0.25 });
        assert_eq!(otlp(&[base]).expect("right").expect("on").sampler, Sampling { parent_based: true, share: 1.0 });
        for wrong in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ] {
            let problem = otlp(&[base, wrong]).expect_err(wrong.0);
            assert!(problem.starts_with(wrong.0) && !problem.contains("hunter2"), "{problem}");
        }
        let problem = otlp(&[base, ratio[0], ("OTEL_TRACES_SAMPLER_ARG", "2")]).expect_err("beyond 1");
        assert!(problem.starts_with("OTEL_TRACES_SAMPLER_ARG must be"), "{problem}");
    }
}
