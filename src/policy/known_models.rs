//! The models that have keys of their own.
//!
//! # Why not every name?
//!
//! A caller can invent any model name. If each were a key, a million invented names would evict the circuits of real
//! models, or flood the labels of a metric. So a name becomes a key only after the upstream has served it, and only up to
//! a limit: all others share one key.

use std::collections::HashMap;
use std::sync::Arc;

/// The keys of the served models, by host.
#[derive(Debug, Default)]
pub(crate) struct KnownModels {
    hosts: HashMap<Box<str>, Host>,
}

#[derive(Debug)]
struct Host {
    /// The key of requests that name no model.
    none: Arc<str>,
    /// The key of unknown models.
    other: Arc<str>,
    models: HashMap<Box<str>, Arc<str>>,
}

/// The key for a request's host and model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ModelKey {
    Known(Arc<str>),
    /// [Learn](KnownModels::learn) it once the upstream serves it.
    Unknown(Arc<str>),
    /// The host is unknown too.
    NewHost,
}

/// Further models of one host share a key.
pub(crate) const MAX_MODELS: usize = 256;
/// Further hosts share one.
const MAX_HOSTS: usize = 1024;

// === impl KnownModels ===

impl KnownModels {
    pub(crate) fn key(&self, host: &str, model: Option<&str>) -> ModelKey {
        let Some(host) = self.hosts.get(host) else { return ModelKey::NewHost };
        let Some(model) = model else { return ModelKey::Known(host.none.clone()) };
        match host.models.get(model) {
            Some(key) => ModelKey::Known(key.clone()),
            None if host.models.len() < MAX_MODELS => ModelKey::Unknown(host.other.clone()),
            None => ModelKey::Known(host.other.clone()),
        }
    }

    /// Makes room for a host. Returns false if there is none.
    pub(crate) fn add_host(&mut self, host: &str) -> bool {
        if self.hosts.contains_key(host) {
            return true;
        }
        let has_room = self.hosts.len() < MAX_HOSTS;
        if has_room {
            let keys = Host { none: host.into(), other: format!("{host} other").into(), models: HashMap::new() };
            self.hosts.insert(host.into(), keys);
        }
        has_room
    }

    /// Notes that the upstream has served this model.
    pub(crate) fn learn(&mut self, host: &str, model: &str) {
        if let Some(keys) = self.hosts.get_mut(host) {
            if keys.models.len() < MAX_MODELS && !keys.models.contains_key(model) {
                keys.models.insert(model.into(), format!("{host} {model}").into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_key_once_it_was_served() {
        let mut known = KnownModels::default();
        assert_eq!(known.key("api", Some("m")), ModelKey::NewHost);
        assert!(known.add_host("api"));
        assert_eq!(known.key("api", None), ModelKey::Known("api".into()));
        assert_eq!(known.key("api", Some("m")), ModelKey::Unknown("api other".into()));
        known.learn("api", "m");
        known.learn("elsewhere", "m");
        assert_eq!(known.key("api", Some("m")), ModelKey::Known("api m".into()));
        assert_eq!(known.key("elsewhere", Some("m")), ModelKey::NewHost);
    }

    #[test]
    fn of_many_names_few_are_kept() {
        let mut known = KnownModels::default();
        let added = (0..100_000).filter(|n| known.add_host(&format!("host-{n}"))).count();
        assert_eq!((added, known.hosts.len()), (MAX_HOSTS, MAX_HOSTS));
        (0..100_000).for_each(|n| known.learn("host-0", &format!("model-{n}")));
        assert_eq!(known.hosts["host-0"].models.len(), MAX_MODELS);
        assert_eq!(known.key("host-0", Some("model-255")), ModelKey::Known("host-0 model-255".into()));
        assert_eq!(known.key("host-0", Some("model-256")), ModelKey::Known("host-0 other".into()));
    }
    #[test]
    fn a_million_invented_names_change_nothing() {
        let mut known = KnownModels::default();
        known.add_host("api");
        known.learn("api", "m");
        for n in 0..1_000_000 {
            let key = known.key("api", Some(&format!("invented-{n}")));
            assert!(matches!(key, ModelKey::Unknown(key) if &*key == "api other"));
        }
        assert_eq!(known.key("api", Some("m")), ModelKey::Known("api m".into()));
        assert_eq!(known.hosts["api"].models.len(), 1);
    }
}
