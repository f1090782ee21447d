//! Selects the stack for a call.

use std::sync::Arc;

use super::answers;
use super::args::CallFilter;
use super::idle_clones::IdleClones;
use super::paths;
use super::upstream::Upstream;

/// The routes in their order; the first match serves the call.
#[derive(Debug)]
pub(crate) struct Routes<S> {
    routes: Vec<Served<S>>,
    /// The stack for callers that come back to answers, shared by all routes.
    answers: IdleClones<S>,
    /// Whether routes differ in their path prefixes.
    has_paths: bool,
}

/// A route with its stack.
#[derive(Debug)]
pub(crate) struct Served<S> {
    /// `None`: the calls outside of routes.
    pub(crate) name: Option<RouteName>,
    pub(crate) calls: CallFilter,
    pub(crate) upstream: Upstream,
    pub(crate) stack: IdleClones<S>,
}

/// In a response's extensions: the route of its call, for the log.
#[derive(Clone, Debug)]
pub(crate) struct RouteName(Arc<str>);

/// What a request's head says about its route.
pub(crate) enum RouteMatch<'a, S> {
    At(&'a Served<S>),
    /// A kept answer that its caller comes back to.
    Answers(&'a IdleClones<S>),
    /// The route depends on the model in the body.
    Unsure,
    /// Upstreams may read the path as one of another route.
    Ambiguous,
    Nowhere,
}

// === impl RouteName ===

impl RouteName {
    /// `None` if there is no name.
    pub(crate) fn new(name: &str) -> Option<Self> {
        (!name.is_empty()).then(|| Self(name.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Routes ===

impl<S> Routes<S> {
    pub(crate) fn new(routes: Vec<Served<S>>, answers: IdleClones<S>) -> Self {
        let has_paths = routes.iter().any(|route| route.calls.path.len() > 1);
        Self { routes, answers, has_paths }
    }

    /// The route of a call whose body has not been read.
    pub(crate) fn by_head(&self, path: &str) -> RouteMatch<'_, S> {
        if answers::is_one(path) {
            return RouteMatch::Answers(&self.answers);
        }
        if self.has_paths && paths::is_ambiguous(path, &self.routes.iter().map(|route| &*route.calls.path)) {
            return RouteMatch::Ambiguous;
        }
        match self.routes.iter().find(|route| path.starts_with(&route.calls.path)) {
            Some(route) if route.calls.model.is_none() => RouteMatch::At(route),
            Some(_) => RouteMatch::Unsure,
            None => RouteMatch::Nowhere,
        }
    }

    /// The route of a call whose model is known or absent.
    pub(crate) fn find(&self, path: &str, model: Option<&str>) -> Option<&Served<S>> {
        self.routes.iter().find(|route| route.calls.have(path, model))
    }
}
