//! The model in memory answers as the scripts do on a real Redis, whatever is asked in whatever order: with answers that
//! are lost and asked for again, messages that come twice, and time that passes in jumps.

use std::cell::Cell;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tower_buttress::store::{Fingerprint, LastGoodKeys, OfferedAnswer, TenantHash};
use tower_buttress::{CircuitOrder, PeerPause, Tenant};
use tower_buttress_redis::backend::{
    Ask, Backend, BackendError, CircuitBackend, CircuitGroup, CircuitId, CircuitNews, ClaimArgs, Claimed,
    ConversationBackend, ConversationShare, Delivery, Flight, FlightEnd, ForgetBackend, GivenOrder, HeldOrder,
    KeptAnswer, LastGoodBackend, LogShare, MessageId, Newest, NumberedOrder, Offered, OrderNews, PauseBackend,
    PauseNews, ProbeLease, ProbeVerdict, Process, RateBackend, RateTurn, STRANGERS, Subscription, TakenRate, Token,
    Votes, Want,
};
use tower_buttress_redis::{Redis, RedisModel};

use crate::support::Server;

#[derive(Clone, Debug)]
enum Step {
    Claim {
        flight: usize,
        payload: u8,
        lease: Duration,
    },
    Renew {
        flight: usize,
        lease: Duration,
    },
    Outgrow {
        flight: usize,
    },
    Append {
        flight: usize,
        offset: u64,
        bytes: Vec<u8>,
        ttl: Duration,
        tenant: u8,
    },
    Free {
        flight: usize,
    },
    Discard {
        flight: usize,
        tenant: u8,
    },
    Keep {
        flight: usize,
        window: Duration,
        length: u64,
        tenant: u8,
    },
    Read {
        flight: usize,
        offset: u64,
        max: usize,
    },
    Holder {
        key: u8,
    },
    Want {
        process: usize,
        flight: usize,
    },
    Forsake {
        flight: usize,
    },
    Mark {
        flight: usize,
        length: u64,
    },
    Offer {
        token: u8,
        flight: usize,
        number: u64,
        bears_ids: bool,
        age: Duration,
        ttl: Duration,
    },
    Offered {
        token: u8,
    },
    Withdraw {
        token: u8,
    },
    Ask {
        process: usize,
        flight: usize,
        stops: bool,
    },
    Look {
        process: usize,
        active: Duration,
    },
    Vote {
        process: usize,
        open_for: Duration,
        active: Duration,
    },
    Probe {
        process: usize,
        lease: Duration,
    },
    Verdict {
        process: usize,
        verdict: ProbeVerdict,
        active: Duration,
    },
    Pause {
        wait: Duration,
    },
    Paused,
    Reserve {
        request: u128,
        costs: [Duration; 2],
        level: Duration,
        pause: Duration,
        max_wait: Duration,
    },
    Refund {
        request: u128,
        rate: usize,
        seconds: i64,
    },
    Beat {
        process: usize,
        ttl: Duration,
    },
    Say {
        conversation: u8,
        payload: u8,
        is_late: bool,
        late: Duration,
        knows: bool,
        is_served: bool,
        most: u64,
    },
    Answered {
        conversation: u8,
        payload: u8,
        is_served: bool,
    },
    Order {
        process: usize,
        order: CircuitOrder,
        is_late: bool,
        late: Duration,
        knows: bool,
        id: u8,
    },
    OrderAgain {
        process: usize,
    },
    Ordered,
    Remember {
        exact: u8,
        normal: Option<u8>,
        length: usize,
        age: Duration,
        ttl: Duration,
    },
    Recall {
        exact: u8,
    },
    LastOf {
        normal: u8,
    },
    Forget {
        tenant: Option<u8>,
    },
    Jump(Duration),
    /// The clock goes back.
    Back,
}

/// The rates of a limit, and what may be taken of each at once.
const RATES: [(&str, Duration); 2] =
    [("requests-60", Duration::from_secs(100)), ("tokens-60", Duration::from_secs(200))];

/// How many cases there are, unless the environment says otherwise.
const CASES: u32 = 150;

/// Two keys, and of each the flights of three processes.
const FLIGHTS: usize = 6;

/// No sum of jumps is near a sum of these: what passes in real time meanwhile makes no difference.
const TIMES: [Duration; 3] = [Duration::from_secs(50), Duration::from_secs(60), Duration::from_secs(100)];
const JUMPS: [Duration; 2] = [Duration::from_secs(37), Duration::from_secs(70)];
const BACK: Duration = Duration::from_millis(45_250);

/// How long ago a call was claimed whose answer is offered.
const AGES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(20), Duration::from_secs(600)];

/// How many things are told late, each by another time: by less than a jump, and not near to any sum of these.
const LATE: u64 = 12;

const ORDERS: [CircuitOrder; 4] =
    [CircuitOrder::Isolate, CircuitOrder::Disable, CircuitOrder::MetricsOnly, CircuitOrder::Close];

/// Room for two short answers, or for a longer one, with what each counts beside its bytes.
const TENANT_BYTES: u64 = 2 * 512 + 8;

/// Room for a few logs in flight.
const LOG_BYTES: u64 = 12;

/// Lets time pass in Redis, or sets its clock back.
const JUMP: &str = "
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local ttl, jump = redis.call('PTTL', key), tonumber(ARGV[2])
  if ttl >= 0 and ttl <= jump then redis.call('DEL', key) elseif ttl >= 0 then
    redis.call('PEXPIRE', key, ttl - jump)
    local kind = redis.call('TYPE', key)['ok']
    for _, field in ipairs({'b', 'u'}) do
      if kind == 'hash' and redis.call('HEXISTS', key, field) == 1 then redis.call('HINCRBY', key, field, -jump) end
    end
    if kind == 'hash' and string.sub(key, -2) == ':o' then redis.call('HINCRBY', key, 'n', -jump) end
    if kind == 'hash' and string.find(key, ':[mg]$') and redis.call('HEXISTS', key, 'e') == 1 then
      redis.call('HINCRBY', key, 'e', -jump)
    end
    if kind == 'hash' and (string.sub(key, -2) == ':u' or string.sub(key, -2) == ':y') then
      local all = redis.call('HGETALL', key)
      redis.call('DEL', key)
      for i = 1, #all, 2 do redis.call('HSET', key, string.format('%.0f', all[i] - jump), all[i + 1]) end
      redis.call('PEXPIRE', key, ttl - jump)
    end
    if kind == 'string' and string.find(key, ':t:', 1, true) then
      local tat, noted = string.match(redis.call('GET', key), '^(%d+) (%d+)$')
      local moved = string.format('%.0f %.0f', tat - jump * 1000, noted - jump * 1000)
      redis.call('SET', key, moved, 'PX', ttl - jump)
    end
    if kind == 'string' and string.find(key, ':d:', 1, true) then
      local at, waits = string.match(redis.call('GET', key), '^(%d+) (%d+)$')
      redis.call('SET', key, string.format('%.0f %s', math.max(at - jump * 1000, 0), waits), 'PX', ttl - jump)
    end
    if kind == 'zset' then
      for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -jump, member) end
    end
  end
end";

fn step() -> impl Strategy<Value = Step> {
    let time = || prop::sample::select(&TIMES[..]);
    let flight = || 0..FLIGHTS;
    prop_oneof![
        6 => (flight(), 0..2_u8, time()).prop_map(|(flight, payload, lease)| Step::Claim { flight, payload, lease }),
        2 => (flight(), time()).prop_map(|(flight, lease)| Step::Renew { flight, lease }),
        1 => flight().prop_map(|flight| Step::Outgrow { flight }),
        6 => (flight(), 0..12_u64, prop::collection::vec(any::<u8>(), 0..6), time(), 0..3_u8)
            .prop_map(|(flight, offset, bytes, ttl, tenant)| Step::Append { flight, offset, bytes, ttl, tenant }),
        1 => flight().prop_map(|flight| Step::Free { flight }),
        1 => (flight(), 0..2_u8).prop_map(|(flight, tenant)| Step::Discard { flight, tenant }),
        3 => (flight(), time(), 0..8_u64, 0..3_u8)
            .prop_map(|(flight, window, length, tenant)| Step::Keep { flight, window, length, tenant }),
        2 => (flight(), 0..8_u64, 1..8_usize).prop_map(|(flight, offset, max)| Step::Read { flight, offset, max }),
        1 => (0..2_u8).prop_map(|key| Step::Holder { key }),
        1 => (0..3_usize, flight()).prop_map(|(process, flight)| Step::Want { process, flight }),
        1 => flight().prop_map(|flight| Step::Forsake { flight }),
        1 => (flight(), 0..8_u64).prop_map(|(flight, length)| Step::Mark { flight, length }),
        3 => (0..3_u8, flight(), any::<u64>(), any::<bool>(), prop::sample::select(&AGES[..]), time()).prop_map(
            |(token, flight, number, bears_ids, age, ttl)| Step::Offer { token, flight, number, bears_ids, age, ttl }
        ),
        3 => (0..3_u8).prop_map(|token| Step::Offered { token }),
        1 => (0..3_u8).prop_map(|token| Step::Withdraw { token }),
        1 => (0..3_usize, flight(), any::<bool>())
            .prop_map(|(process, flight, stops)| Step::Ask { process, flight, stops }),
        2 => (0..3_usize, time()).prop_map(|(process, active)| Step::Look { process, active }),
        3 => (0..3_usize, time(), time())
            .prop_map(|(process, open_for, active)| Step::Vote { process, open_for, active }),
        3 => (0..3_usize, time()).prop_map(|(process, lease)| Step::Probe { process, lease }),
        3 => (0..3_usize, verdict(), time())
            .prop_map(|(process, verdict, active)| Step::Verdict { process, verdict, active }),
        1 => time().prop_map(|wait| Step::Pause { wait }),
        1 => Just(Step::Paused),
        4 => (any::<u128>(), cost(), cost(), cost(), cost(), prop::sample::select(&WAITS[..])).prop_map(
            |(request, one, two, level, pause, max_wait)| Step::Reserve { request, costs: [one, two], level, pause, max_wait }
        ),
        2 => (any::<u128>(), 0..2_usize, prop::sample::select(&[-100_i64, -50, 50][..]))
            .prop_map(|(request, rate, seconds)| Step::Refund { request, rate, seconds }),
        1 => (0..3_usize, time()).prop_map(|(process, ttl)| Step::Beat { process, ttl }),
        5 => (0..3_u8, 0..4_u8, any::<[bool; 3]>(), prop::sample::select(&[1, 2, 2, 2][..])).prop_map(
            |(conversation, payload, [is_late, knows, is_served], most)| Step::Say {
                conversation,
                payload,
                is_late,
                late: Duration::ZERO,
                knows,
                is_served,
                most,
            }
        ),
        3 => (0..3_u8, 0..4_u8, any::<bool>())
            .prop_map(|(conversation, payload, is_served)| Step::Answered { conversation, payload, is_served }),
        3 => (0..3_usize, prop::sample::select(&ORDERS[..]), any::<[bool; 2]>(), 0..20_u8)
            .prop_map(|(process, order, [is_late, knows], id)| Step::Order {
                process,
                order,
                is_late,
                late: Duration::ZERO,
                knows,
                id,
            }),
        1 => (0..3_usize).prop_map(|process| Step::OrderAgain { process }),
        2 => Just(Step::Ordered),
        4 => (0..4_u8, prop::option::of(0..2_u8), 0..6_usize, prop::sample::select(&AGES[..]), time()).prop_map(
            |(exact, normal, length, age, ttl)| Step::Remember { exact, normal, length, age, ttl }
        ),
        2 => (0..4_u8).prop_map(|exact| Step::Recall { exact }),
        2 => (0..2_u8).prop_map(|normal| Step::LastOf { normal }),
        1 => prop::option::of(0..2_u8).prop_map(|tenant| Step::Forget { tenant }),
        1 => prop::sample::select(&JUMPS[..]).prop_map(Step::Jump),
        1 => Just(Step::Back),
    ]
}

fn cost() -> impl Strategy<Value = Duration> {
    prop::sample::select(&[0, 50, 100][..]).prop_map(Duration::from_secs)
}

/// No wait is near one of these.
const WAITS: [Duration; 3] =
    [Duration::from_millis(5_500), Duration::from_millis(95_500), Duration::from_secs(1_000_000)];

fn verdict() -> impl Strategy<Value = ProbeVerdict> {
    prop_oneof![
        Just(ProbeVerdict::Well),
        Just(ProbeVerdict::GivenBack),
        (prop::sample::select(&TIMES[..]), 0..4_u32)
            .prop_map(|(open_for, unanswered)| ProbeVerdict::Failed { open_for, unanswered }),
    ]
}

/// The steps, some of which are taken twice.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let twice = (step(), prop::bool::weighted(0.2)).prop_map(|(step, twice)| vec![step; 1 + usize::from(twice)]);
    // A step alone seldom meets a log of its length.
    let kept = (0..FLIGHTS, prop::collection::vec(any::<u8>(), 0..6), prop::sample::select(&TIMES[..]), 0..3_u8)
        .prop_map(|(flight, bytes, window, tenant)| {
            let (length, lease) = (bytes.len() as u64, Duration::from_secs(10));
            vec![
                Step::Claim { flight, payload: 0, lease },
                Step::Append { flight, offset: 0, bytes, ttl: lease, tenant },
                Step::Keep { flight, window, length, tenant },
            ]
        });
    let steps = prop_oneof![9 => twice, 1 => kept];
    (prop::collection::vec(steps, 1..40), 0..LATE).prop_map(|(steps, first)| {
        let mut steps: Vec<Step> = steps.into_iter().flatten().collect();
        let lates = steps.iter_mut().filter_map(|step| match step {
            Step::Say { is_late: true, late, .. } | Step::Order { is_late: true, late, .. } => Some(late),
            _ => None,
        });
        for (late, number) in lates.zip(0..LATE) {
            *late = Duration::from_secs(10 + 2 * ((first + 5 * number) % LATE));
        }
        steps
    })
}

/// An engine, in a runtime with a clock of its own.
struct Engine<B> {
    runtime: Runtime,
    backend: B,
    flights: Vec<Flight>,
    owners: [Process; 3],
    received: Subscription,
    inbox: Subscription,
    news: Subscription,
    /// The numbers that messages of each conversation were given.
    numbers: [Vec<u64>; 3],
    /// The orders that held.
    orders: Vec<NumberedOrder>,
}

impl<B> Engine<B>
where
    B: Backend + CircuitBackend + PauseBackend + RateBackend + ConversationBackend + LastGoodBackend + ForgetBackend,
{
    fn new(runtime: Runtime, backend: B, flights: Vec<Flight>, owners: [Process; 3]) -> Self {
        let received = runtime.block_on(backend.listen(flights[0])).unwrap();
        let inbox = runtime.block_on(backend.inbox(owners[0])).unwrap();
        let news = runtime.block_on(backend.news(group())).unwrap();
        Self {
            runtime,
            backend,
            flights,
            owners,
            received,
            inbox,
            news,
            numbers: Default::default(),
            orders: Vec::new(),
        }
    }

    /// As far as the clocks of two engines make no difference.
    fn held(&mut self, held: Option<HeldOrder>) -> String {
        let Some(HeldOrder { order, .. }) = held else { return "none".into() };
        if !self.orders.contains(&order) {
            self.orders.push(order);
        }
        let mut known: Vec<u64> = self.orders.iter().map(|order| order.number).collect();
        format!("{:?} {}", order.order, rank(&mut known, order.number))
    }

    fn answer<T: Debug>(&self, answer: impl Future<Output = Result<T, BackendError>>) -> String {
        format!("{:?}", self.runtime.block_on(answer).unwrap())
    }

    fn take(&mut self, step: &Step) -> String {
        let (backend, flights) = (self.backend.clone(), self.flights.clone());
        let flight = |flight: usize| flights[flight];
        match step.clone() {
            Step::Claim { flight: at, payload, lease } => {
                let Flight { key, token } = flight(at);
                let payload = Fingerprint::from_bytes([payload; 32]);
                let args = ClaimArgs { key, payload, token, owner: self.owners[at % 3], lease };
                match self.runtime.block_on(backend.claim(args)).unwrap() {
                    Claimed::Taken { state, same_payload, token, owner, age, ttl } => {
                        let flight = self.flights.iter().position(|flight| flight.token == token);
                        format!("{state:?} {same_payload} {flight:?} {owner:?} {} {}", seconds(age), seconds(ttl))
                    }
                    other => format!("{other:?}"),
                }
            }
            Step::Renew { flight: at, lease } => self.answer(backend.renew(flight(at), lease)),
            Step::Outgrow { flight: at } => self.answer(backend.outgrow(flight(at))),
            Step::Append { flight: at, offset, bytes, ttl, tenant } => {
                let share = LogShare { tenant: payer(tenant), bytes: LOG_BYTES };
                self.answer(backend.append(flight(at), offset, bytes.into(), ttl, share))
            }
            Step::Free { flight: at } => self.answer(backend.settle(flight(at), FlightEnd::Free)),
            Step::Discard { flight: at, tenant } => self.answer(backend.discard(flight(at), print(100 + tenant))),
            Step::Keep { flight: at, window, length, tenant } => {
                let owner = Some(TenantHash::of(&named(tenant)));
                let tenant = payer(tenant);
                let keep = FlightEnd::Keep { window, length, tenant, tenant_bytes: TENANT_BYTES, owner };
                self.answer(backend.settle(flight(at), keep))
            }
            Step::Read { flight: at, offset, max } => self.answer(backend.read(flight(at), offset, max)),
            Step::Holder { key } => {
                let holder = self.runtime.block_on(backend.holder(Fingerprint::from_bytes([key; 32]))).unwrap();
                let flight = |token| self.flights.iter().position(|flight| flight.token == token);
                format!("{:?}", holder.map(flight))
            }
            Step::Want { process, flight: at } => self.answer(backend.want(self.owners[process], Want(flight(at)))),
            Step::Forsake { flight: at } => self.answer(backend.forsake(flight(at))),
            Step::Mark { flight: at, length } => self.answer(backend.mark(flight(at), length)),
            Step::Offer { token, flight: at, number, bears_ids, age, ttl } => {
                let (answer, has_ended) = (OfferedAnswer::new(number, print(30), bears_ids), number % 3 == 0);
                let offered = Offered {
                    flight: flight(at),
                    payload: print(31),
                    owner: self.owners[at % 3],
                    answer,
                    age,
                    has_ended,
                };
                let owner = (number % 2 == 0).then(|| TenantHash::of(&named(token % 2)));
                self.answer(backend.offer(print(token), offered, owner, ttl))
            }
            Step::Offered { token } => match self.runtime.block_on(backend.offered(print(token))).unwrap() {
                Some(offered) => format!("{:?} {}", Offered { age: Duration::ZERO, ..offered }, seconds(offered.age)),
                None => "nowhere".into(),
            },
            Step::Withdraw { token } => self.answer(backend.withdraw(print(token))),
            Step::Ask { process, flight: at, stops } => {
                let ask = if stops { Ask::Stop } else { Ask::Return };
                self.answer(backend.ask(self.owners[process], ask(flight(at))))
            }
            Step::Look { process, active } => {
                rounded(self.runtime.block_on(backend.look(circuit(), self.owners[process], active)).unwrap())
            }
            Step::Vote { process, open_for, active } => {
                rounded(self.runtime.block_on(backend.vote(circuit(), self.owners[process], open_for, active)).unwrap())
            }
            Step::Probe { process, lease } => {
                match self.runtime.block_on(backend.probe(circuit(), self.flights[process].token, lease)).unwrap() {
                    ProbeLease::Wait(wait) => format!("wait {}", seconds(wait)),
                    ProbeLease::Early(wait) => format!("early {}", seconds(wait)),
                    granted => format!("{granted:?}"),
                }
            }
            Step::Verdict { process, verdict, active } => self.answer(backend.verdict(
                circuit(),
                self.flights[process].token,
                self.owners[process],
                verdict,
                active,
            )),
            Step::Pause { wait } => {
                let limit = Fingerprint::from_bytes([200; 32]);
                // Whether it was paused for as long is a matter of milliseconds.
                self.runtime
                    .block_on(backend.pause(PauseNews {
                        limit,
                        pause: PeerPause::new(wait, wait == TIMES[1]),
                        process: self.owners[0],
                    }))
                    .unwrap();
                "paused".into()
            }
            Step::Paused => {
                let limit = Fingerprint::from_bytes([200; 32]);
                let PeerPause { wait, finds_out, .. } = self.runtime.block_on(backend.paused(limit)).unwrap();
                format!("{} {finds_out}", seconds(wait))
            }
            Step::Reserve { request, costs, level, pause, max_wait } => {
                let request = token(request);
                let limit = Fingerprint::from_bytes([200; 32]);
                let cost = |(cost, (name, burst)): (Duration, (&str, Duration))| TakenRate {
                    name: name.into(),
                    cost,
                    burst,
                    level,
                };
                let costs = costs.into_iter().zip(RATES).map(cost).collect();
                match self.runtime.block_on(backend.reserve(limit, request, costs, pause, max_wait)).unwrap() {
                    RateTurn::Taken(wait) => format!("taken {}", seconds(wait)),
                    RateTurn::TooLong(wait) => format!("too long {}", seconds(wait)),
                    other => format!("{other:?}"),
                }
            }
            Step::Refund { request, rate, seconds } => {
                let changes = vec![(RATES[rate].0.to_owned(), seconds * 1_000_000)];
                self.answer(backend.refund(Fingerprint::from_bytes([200; 32]), token(request), changes))
            }
            Step::Beat { process, ttl } => self.answer(backend.beat(self.owners[process], ttl)),
            Step::Say { conversation, payload, late, knows, is_served, most, .. } => {
                let numbers = &self.numbers[usize::from(conversation)];
                let known = numbers.iter().max().copied().filter(|_| knows).unwrap_or(0);
                let newest = self.runtime.block_on(async {
                    let came = Instant::now().checked_sub(late).unwrap();
                    let share = ConversationShare { tenant: speaker(conversation), is_served, most };
                    backend.newest(message(conversation, payload), came, known, share).await
                });
                match newest.unwrap() {
                    Newest::Number { number, superseded } => {
                        let rank = rank(&mut self.numbers[usize::from(conversation)], number);
                        format!("number {rank} {superseded:?}")
                    }
                    other => format!("{other:?}"),
                }
            }
            Step::Answered { conversation, payload, is_served } => {
                let share = ConversationShare { tenant: speaker(conversation), is_served, most: 2 };
                self.answer(backend.answered(message(conversation, payload), share))
            }
            Step::Order { process, order, late, knows, id, .. } => {
                let known = if knows { self.orders.last().map_or(0, |order| order.number) } else { 0 };
                let held = self.runtime.block_on(async {
                    let given = Instant::now().checked_sub(late).unwrap();
                    let order = GivenOrder { order, given, id: token(id.into()), known };
                    backend.order(circuit(), self.owners[process], order).await
                });
                self.held(Some(held.unwrap()))
            }
            Step::OrderAgain { process } => {
                let Some(order) = self.orders.get(self.orders.len() / 2).copied() else { return "none".into() };
                let told = HeldOrder { order, age: TIMES[process] };
                let held = self.runtime.block_on(backend.order_again(circuit(), self.owners[process], told));
                self.held(Some(held.unwrap()))
            }
            Step::Ordered => {
                let held = self.runtime.block_on(backend.ordered(circuit())).unwrap();
                self.held(held)
            }
            Step::Remember { exact, normal, length, age, ttl } => {
                // What names an answer is hashed with its tenant.
                let tenant = exact % 2;
                let owner = Some(TenantHash::of(&named(tenant)));
                let keys = LastGoodKeys::new(print(100 + tenant), owner, print(40 + exact), normal.map(print));
                let bytes = vec![exact; length].into();
                self.answer(backend.remember(KeptAnswer { keys, bytes, age, ttl, tenant_bytes: TENANT_BYTES }))
            }
            Step::Recall { exact } => match self.runtime.block_on(backend.recall(print(40 + exact))).unwrap() {
                Some((bytes, age)) => format!("{bytes:?} {}", seconds(age)),
                None => "nothing".into(),
            },
            Step::LastOf { normal } => self.answer(backend.last_of(print(normal))),
            Step::Forget { tenant } => self.answer(backend.forget_kept(tenant.map(named).as_ref())),
            Step::Jump(_) | Step::Back => "time passed".into(),
        }
    }

    fn all_news(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(Some(Delivery::Message(message))) =
            self.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(5), self.news.next()).await })
        {
            all.push(match CircuitNews::decode(group(), &message) {
                Some(news) => format!("{:?} {:?} {:?}", news.circuit, news.process, news.votes.map(rounded)),
                None => {
                    let OrderNews { order, process, age, is_again, .. } = OrderNews::decode(group(), &message).unwrap();
                    format!("{:?} {process:?} {} {is_again}", order.order, seconds(age))
                }
            });
        }
        all
    }

    /// What arrived of the first flight, and in the inbox of the first process.
    fn all_received(&mut self) -> [Vec<Bytes>; 2] {
        let Self { runtime, received, inbox, .. } = self;
        [received, inbox].map(|received| {
            let mut all = Vec::new();
            while let Ok(Some(Delivery::Message(message))) =
                runtime.block_on(async { tokio::time::timeout(Duration::from_millis(5), received.next()).await })
            {
                all.push(message);
            }
            all
        })
    }
}

/// How many of the numbers that were seen are lower.
fn rank(numbers: &mut Vec<u64>, number: u64) -> usize {
    if !numbers.contains(&number) {
        numbers.push(number);
    }
    numbers.iter().filter(|other| **other < number).count()
}

fn print(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

fn named(tenant: u8) -> Tenant {
    Tenant::new(format!("tenant {tenant}"))
}

fn token(bytes: u128) -> Token {
    Token::from_slice(&bytes.to_le_bytes()).unwrap()
}

/// Whose share an answer takes.
fn payer(tenant: u8) -> Fingerprint {
    if tenant == 2 { STRANGERS } else { print(100 + tenant) }
}

/// Whose a conversation is: two are one tenant's.
fn speaker(conversation: u8) -> Fingerprint {
    print(100 + conversation / 2)
}

fn message(conversation: u8, payload: u8) -> MessageId {
    MessageId { conversation: print(conversation), payload: print(payload) }
}

fn group() -> CircuitGroup {
    CircuitGroup::new("models")
}

fn circuit() -> CircuitId {
    group().circuit(Some("host"))
}

/// As far as the time that passes meanwhile makes no difference.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() / 5.0).round()
}

fn rounded(Votes { open_for, votes, active, .. }: Votes) -> String {
    format!("{} {votes} {active}", seconds(open_for))
}

#[test]
fn the_model_answers_as_redis_does() {
    let server = Server::start();
    let cases = std::env::var("MODEL_CASES").map_or(CASES, |cases| cases.parse().expect("MODEL_CASES=number"));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let (number, kept, remembered) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let result = runner.run(&steps(), |steps| {
        number.set(number.get() + 1);
        let flights: Vec<Flight> = (0..FLIGHTS)
            .map(|at| Flight { key: Fingerprint::from_bytes([u8::from(at >= 3); 32]), token: Token::random() })
            .collect();
        let owners = [Process::random(), Process::random(), Process::random()];
        let paused = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let mut model = Engine::new(paused, RedisModel::new(), flights.clone(), owners);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let prefix = format!("model{}:", number.get());
        let options = server.options().prefix(prefix.as_str()).patience(Duration::from_secs(10));
        let mut real = Engine::new(runtime, Redis::new(options).unwrap(), flights, owners);
        for step in &steps {
            let jump = match step {
                Step::Jump(time) => {
                    model.runtime.block_on(tokio::time::advance(*time));
                    i64::try_from(time.as_millis()).unwrap()
                }
                Step::Back => {
                    // By the clock of its runtime: what has expired by then stays so.
                    model.runtime.block_on(async { model.backend.jump_back(BACK) });
                    -i64::try_from(BACK.as_millis()).unwrap()
                }
                _ => 0,
            };
            if jump != 0 {
                real.runtime.block_on(server.eval(JUMP, &[&prefix, &jump.to_string()]));
                real.orders.iter_mut().for_each(|order| order.number = order.number.checked_add_signed(-jump).unwrap());
            }
            let answer = model.take(step);
            prop_assert_eq!(&answer, &real.take(step), "{:?}", step);
            match step {
                Step::Keep { .. } if answer.contains("Done") => kept.set(kept.get() + 1),
                Step::Remember { .. } if answer.contains("true") => remembered.set(remembered.get() + 1),
                _ => {}
            }
        }
        prop_assert_eq!(model.all_received(), real.all_received());
        prop_assert_eq!(model.all_news(), real.all_news());
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    // What is kept is compared only if there is room for it.
    assert!(kept.get() > 10 && remembered.get() > 10, "{kept:?} {remembered:?}");
}
