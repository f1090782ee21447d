//! The cost of a call and a body frame through the layers that limit time.

use std::time::Duration;

use http::StatusCode;
use tokio::runtime::Runtime;
use tower::Layer;
use tower_buttress::{DeadlineLayer, FirstByteTimeoutLayer, IdleBodyTimeoutLayer};
use tower_buttress_benches::alloc::Counting;
use tower_buttress_benches::bodies::{BoxError, Endless, EndlessInfallible, read};
use tower_buttress_benches::measure::{self, Case, Cost, CostOf};
use tower_buttress_benches::services::{Bare, call, through, upload};
use tower_buttress_benches::table;
use tower_http::timeout::{DeadlineBody, TimeoutBody, TimeoutLayer as HttpTimeoutLayer};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: Duration = Duration::from_secs(3600);

fn main() {
    measure::run(CASES, tables);
}

fn tables(_: &Runtime, cost: CostOf<'_>) {
    println!("Costs over the bare service or body of this run, where a row begins with a plus.");

    table::heading("A body frame that is ready");
    let bare = cost("frame");
    table::bare("bare", bare);
    let group = |bare: Cost, rows: &[(&str, &str, Option<f64>)]| {
        for (title, case, goal) in rows {
            table::over(title, cost(case), bare, *goal);
        }
    };
    group(
        bare,
        &[
            ("IdleBodyTimeout", "frame idle", Some(6.0)),
            ("FirstByteTimeout, after the first byte", "frame first byte", Some(20.0)),
            ("Deadline", "frame deadline", None),
            ("Deadline, IdleBodyTimeout and FirstByteTimeout", "frame all", Some(120.0)),
            ("tower-http TimeoutBody", "frame tower-http", None),
            ("tower-http DeadlineBody", "frame tower-http deadline", None),
            ("tower-http DeadlineBody and TimeoutBody", "frame tower-http two", None),
        ],
    );

    table::heading("A body frame that is ready, whose error is no BoxError");
    let bare = cost("frame infallible");
    table::bare("bare", bare);
    group(
        bare,
        &[
            ("IdleBodyTimeout", "frame infallible idle", None),
            ("tower-http TimeoutBody", "frame infallible tower-http", None),
        ],
    );

    table::heading("A body frame that is pending once");
    let bare = cost("pending");
    table::bare("bare", bare);
    group(
        bare,
        &[
            ("IdleBodyTimeout", "pending idle", Some(60.0)),
            ("FirstByteTimeout, after the first byte", "pending first byte", Some(40.0)),
            ("Deadline", "pending deadline", None),
            ("Deadline, IdleBodyTimeout and FirstByteTimeout", "pending all", Some(280.0)),
            ("tower-http TimeoutBody", "pending tower-http", None),
            ("tower-http DeadlineBody", "pending tower-http deadline", None),
            ("tower-http DeadlineBody and TimeoutBody", "pending tower-http two", None),
        ],
    );

    table::heading("A call that is ready at once");
    let bare = cost("call");
    table::bare("bare", bare);
    group(
        bare,
        &[
            ("IdleBodyTimeout", "call idle", None),
            ("FirstByteTimeout, empty request body", "call first byte", None),
            ("Deadline", "call deadline", Some(30.0)),
            ("tower Timeout", "call tower", None),
            ("tower-http Timeout", "call tower-http", None),
        ],
    );

    table::heading("A call with a request body that is read");
    let bare = cost("upload");
    table::bare("bare", bare);
    group(bare, &[("FirstByteTimeout", "upload first byte", None)]);

    table::heading("A call that is pending once");
    let bare = cost("wait");
    table::bare("bare", bare);
    group(
        bare,
        &[
            ("FirstByteTimeout, empty request body", "wait first byte", None),
            ("Deadline", "wait deadline", Some(620.0)),
            ("tower Timeout", "wait tower", None),
            ("tower-http Timeout", "wait tower-http", None),
        ],
    );
}

const CASES: &[Case] = &[
    Case { name: "frame", run: |n| read(Endless::<BoxError>::ready(), n) },
    Case { name: "frame idle", run: |n| read(through(idle(), Endless::<BoxError>::ready()), n) },
    Case { name: "frame first byte", run: |n| read(through(first_byte(), Endless::<BoxError>::ready()), n) },
    Case { name: "frame deadline", run: |n| read(through(deadline(), Endless::<BoxError>::ready()), n) },
    Case { name: "frame all", run: |n| read(through(all(), Endless::<BoxError>::ready()), n) },
    Case { name: "frame tower-http", run: |n| read(TimeoutBody::new(LIMIT, Endless::<BoxError>::ready()), n) },
    Case {
        name: "frame tower-http deadline",
        run: |n| read(DeadlineBody::new(LIMIT, Endless::<BoxError>::ready()), n),
    },
    Case {
        name: "frame tower-http two",
        run: |n| read(DeadlineBody::new(LIMIT, TimeoutBody::new(LIMIT, Endless::<BoxError>::ready())), n),
    },
    Case { name: "frame infallible", run: |n| read(EndlessInfallible::ready(), n) },
    Case { name: "frame infallible idle", run: |n| read(through(idle(), EndlessInfallible::ready()), n) },
    Case { name: "frame infallible tower-http", run: |n| read(TimeoutBody::new(LIMIT, EndlessInfallible::ready()), n) },
    Case { name: "pending", run: |n| read(Endless::<BoxError>::pending(), n) },
    Case { name: "pending idle", run: |n| read(through(idle(), Endless::<BoxError>::pending()), n) },
    Case { name: "pending first byte", run: |n| read(through(first_byte(), Endless::<BoxError>::pending()), n) },
    Case { name: "pending deadline", run: |n| read(through(deadline(), Endless::<BoxError>::pending()), n) },
    Case { name: "pending all", run: |n| read(through(all(), Endless::<BoxError>::pending()), n) },
    Case { name: "pending tower-http", run: |n| read(TimeoutBody::new(LIMIT, Endless::<BoxError>::pending()), n) },
    Case {
        name: "pending tower-http deadline",
        run: |n| read(DeadlineBody::new(LIMIT, Endless::<BoxError>::pending()), n),
    },
    Case {
        name: "pending tower-http two",
        run: |n| read(DeadlineBody::new(LIMIT, TimeoutBody::new(LIMIT, Endless::<BoxError>::pending())), n),
    },
    Case { name: "call", run: |n| call(READY, n) },
    Case { name: "call idle", run: |n| call(idle().layer(READY), n) },
    Case { name: "call first byte", run: |n| call(first_byte().layer(READY), n) },
    Case { name: "call deadline", run: |n| call(deadline().layer(READY), n) },
    Case { name: "call tower", run: |n| call(tower_timeout().layer(READY), n) },
    Case { name: "call tower-http", run: |n| call(http_timeout().layer(READY), n) },
    Case { name: "upload", run: |n| upload(READS, n) },
    Case { name: "upload first byte", run: |n| upload(first_byte().layer(READS), n) },
    Case { name: "wait", run: |n| call(WAITS, n) },
    Case { name: "wait first byte", run: |n| call(first_byte().layer(WAITS), n) },
    Case { name: "wait deadline", run: |n| call(deadline().layer(WAITS), n) },
    Case { name: "wait tower", run: |n| call(tower_timeout().layer(WAITS), n) },
    Case { name: "wait tower-http", run: |n| call(http_timeout().layer(WAITS), n) },
];

const READY: Bare = Bare { pending: false, reads: false };
const READS: Bare = Bare { pending: false, reads: true };
const WAITS: Bare = Bare { pending: true, reads: false };

fn idle() -> IdleBodyTimeoutLayer {
    IdleBodyTimeoutLayer::new(LIMIT)
}

fn first_byte() -> FirstByteTimeoutLayer {
    FirstByteTimeoutLayer::new(LIMIT)
}

fn deadline() -> DeadlineLayer {
    DeadlineLayer::new(LIMIT)
}

fn all() -> (DeadlineLayer, IdleBodyTimeoutLayer, FirstByteTimeoutLayer) {
    (deadline(), idle(), first_byte())
}

fn tower_timeout() -> tower::timeout::TimeoutLayer {
    tower::timeout::TimeoutLayer::new(LIMIT)
}

fn http_timeout() -> HttpTimeoutLayer {
    HttpTimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, LIMIT)
}
