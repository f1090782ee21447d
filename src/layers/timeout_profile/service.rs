use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::config::ProfileChooser;
use crate::rt::layered::Layered;

/// Sets the time limits of each request. See [`TimeoutProfileLayer`](crate::TimeoutProfileLayer).
///
/// It is not called `TimeoutProfile`, since that is the name of the [limits](crate::TimeoutProfile) themselves.
pub type TimeoutProfileService<S> = Layered<S, Option<ProfileChooser>>;

impl<S, B> Service<Request<B>> for Layered<S, Option<ProfileChooser>>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(ProfileChooser(choose)) = &self.config else { return self.inner.call(request) };
        let (mut head, body) = request.into_parts();
        if let Some(profile) = choose(&head) {
            head.extensions.insert(profile);
        }
        self.inner.call(Request::from_parts(head, body))
    }
}
