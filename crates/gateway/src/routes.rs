//! Which stack answers a call.

use super::answers;
use super::args::Calls;
use super::idle_clones::IdleClones;
use super::paths;
use super::upstream::Upstream;

/// The routes, in their order: the first that a call is among.
#[derive(Debug)]
pub(crate) struct Routes<S> {
    routes: Vec<Served<S>>,
    /// What callers come back to, whichever route it came from.
    answers: IdleClones<S>,
    /// Not all paths are those of the same routes.
    has_paths: bool,
}

/// A route with its stack.
#[derive(Debug)]
pub(crate) struct Served<S> {
    pub(crate) calls: Calls,
    pub(crate) upstream: Upstream,
    pub(crate) stack: IdleClones<S>,
}

/// What a request's head says of its route.
pub(crate) enum RouteMatch<'a, S> {
    At(&'a Served<S>),
    /// At an answer that callers come back to.
    Answers(&'a IdleClones<S>),
    /// It depends on the model, which stands in the body.
    Unsure,
    /// Upstreams may read its path as one of another route's.
    Ambiguous,
    Nowhere,
}

// === impl Routes ===

impl<S> Routes<S> {
    pub(crate) fn new(routes: Vec<Served<S>>, answers: IdleClones<S>) -> Self {
        let has_paths = routes.iter().any(|route| route.calls.path.len() > 1);
        Self { routes, answers, has_paths }
    }

    /// The route of a call whose body was not read yet.
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

    /// The route of a call whose model is known, where it has one.
    pub(crate) fn find(&self, path: &str, model: Option<&str>) -> Option<&Served<S>> {
        self.routes.iter().find(|route| route.calls.have(path, model))
    }
}
