//! Authenticates callers, and checks web pages and proxies.

mod copies;
mod keys;
mod networks;
mod pages;
mod removed;

pub(crate) use self::keys::{Keys, is_name, name_rule};
pub(crate) use self::networks::Network;
pub(crate) use self::pages::{Origin, Pages};
pub(crate) use self::removed::{KeyRemoval, RemovedKeyLayer};

use std::net::IpAddr;

use http::{HeaderMap, Request, Response};
use tower_buttress::Authenticated;

use super::answer_body::AnswerBody;
use super::answers;
use super::headers::{Peer, is_of_proxies};
use super::problem;

/// Checks each request before a byte of its body is read.
#[derive(Debug)]
pub(crate) struct Callers {
    /// `None`: anyone may call, except web pages of other sites.
    pub(crate) keys: Option<Keys>,
    /// Whether callers without keys count as authenticated.
    pub(crate) trusted: bool,
    pub(crate) pages: Pages,
    pub(crate) proxies: Vec<Network>,
}

// === impl Callers ===

impl Callers {
    /// Checks the caller's key, removes it from the request and sets the tenant. Returns an answer if the request is
    /// refused or answered here.
    pub(crate) fn admit<B>(&self, request: &mut Request<B>) -> Option<Response<AnswerBody>> {
        if let (None, Some(refusal)) = (&self.keys, self.pages.check(request).err()) {
            return Some(problem::foreign(refusal));
        }
        // A browser sends the preflight without the page's key.
        if let Some(response) = self.pages.preflight(request) {
            return Some(response);
        }
        let Some(keys) = &self.keys else {
            if self.trusted {
                request.extensions_mut().insert(Authenticated);
            }
            return None;
        };
        if answers::needs_no_key(request.uri().path(), request.headers()) {
            return None;
        }
        let Some(key) = keys.take(request) else { return Some(problem::unknown_caller()) };
        request.extensions_mut().insert(key.tenant);
        request.extensions_mut().insert(KeyRemoval(key.removal));
        request.extensions_mut().insert(Authenticated);
        None
    }

    pub(crate) fn peer(&self, address: IpAddr, has_tls: bool) -> Peer {
        let is_trusted_proxy = self.proxies.iter().any(|network| network.contains(address));
        Peer { address, is_trusted_proxy, has_tls }
    }

    /// Whether the request came through another proxy.
    pub(crate) fn is_relayed(&self, address: IpAddr, headers: &HeaderMap) -> bool {
        headers.keys().any(is_of_proxies) || self.peer(address, false).is_trusted_proxy
    }

    /// Takes over the keys' removal tokens from `old`.
    pub(crate) fn succeed(&mut self, old: &Self) {
        if let (Some(keys), Some(old)) = (&mut self.keys, &old.keys) {
            keys.succeed(old);
        }
    }

    /// Ends the waiting calls of callers whose keys are not in `new`.
    pub(crate) fn remove_all_but(&self, new: &Self) {
        if let (Some(keys), Some(new)) = (&self.keys, &new.keys) {
            keys.remove_all_but(new);
        }
    }

    /// Checks the origin of a request for the gateway's own pages, which need no key.
    pub(crate) fn admit_to_own_pages<B>(&self, request: &Request<B>) -> Option<Response<AnswerBody>> {
        self.pages.check_own(request).err().map(problem::foreign)
    }
}
