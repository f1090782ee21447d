use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const SECOND: Micros = 1_000_000;

fn fixed(limit: u32) -> Places<u32> {
    Places::new(ConcurrencyLimit::Fixed(limit), 1024)
}

fn waits(places: &mut Places<u32>, tenant: u64) -> Ticket {
    match places.wait(tenant, 0) {
        EnqueueResult::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_that_came_without_asking_counts_when_it_is_counted() {
    let mut places = fixed(2);
    places.count(1);
    assert!(!places.is_full());
    places.count(1);
    assert!(places.is_full() && places.enter(2).is_none());
    let (first, second) = (waits(&mut places, 1), waits(&mut places, 2));
    places.leave(PlaceGrant { tenant: 1, round: 0 }, Load::Unknown, None);
    let (next, _) = places.next().unwrap();
    assert_eq!(next, second, "tenant 1 has half of the places");
    assert!(first != second);
}

#[test]
fn a_newcomer_does_not_overtake_one_that_waits() {
    let mut places = fixed(1);
    let grant = places.enter(1).unwrap();
    let ticket = waits(&mut places, 1);
    places.leave(grant, Load::Unknown, None);
    assert_eq!(places.enter(2), None, "the place is for the one that waits");
    assert_eq!(places.next().unwrap().0, ticket);
    assert!(places.next().is_none());
}

#[test]
fn a_tenant_has_half_of_the_places_while_others_wait() {
    let mut places = fixed(4);
    let held: Vec<PlaceGrant> = (0..4).map(|_| places.enter(1).unwrap()).collect();
    let mine = waits(&mut places, 1);
    let theirs = [waits(&mut places, 2), waits(&mut places, 2), waits(&mut places, 3)];
    // It was first in the queue, but holds three.
    places.leave(held[0], Load::Unknown, None);
    assert_eq!(places.next().unwrap().0, theirs[0]);
    places.leave(held[1], Load::Unknown, None);
    assert_eq!(places.next().unwrap().0, theirs[2]);
    places.leave(held[2], Load::Unknown, None);
    // It holds one now, and it is its turn.
    assert_eq!(places.next().unwrap().0, mine);
}

#[test]
fn a_tenant_alone_may_have_all() {
    let mut places = fixed(4);
    let held: Vec<PlaceGrant> = (0..4).map(|_| places.enter(1).unwrap()).collect();
    let ticket = waits(&mut places, 1);
    places.leave(held[0], Load::Unknown, None);
    assert_eq!(places.next().unwrap().0, ticket);
}

#[test]
fn the_expected_wait_is_that_of_the_tenants_own_queue() {
    let mut places = fixed(2);
    assert_eq!(places.expected_wait(1), None);
    let grant = places.enter(1).unwrap();
    places.leave(grant, Load::Unknown, Some(4 * SECOND));
    let _held = [places.enter(1), places.enter(1)];
    for _ in 0..9 {
        waits(&mut places, 1);
    }
    assert_eq!(places.expected_wait(1), Some(20 * SECOND));
    assert_eq!(places.expected_wait(2), Some(4 * SECOND));
}

#[test]
fn a_full_line_makes_room_for_a_tenant_that_has_less_of_it() {
    let mut places = Places::new(ConcurrencyLimit::Fixed(1), 3);
    places.enter(1).unwrap();
    let tickets: Vec<Ticket> = (0..3).map(|_| waits(&mut places, 1)).collect();
    assert!(matches!(places.wait(1, 0), EnqueueResult::Full(_)));
    let EnqueueResult::InPlaceOf { evicted, .. } = places.wait(2, 0) else { panic!("full") };
    assert_eq!((evicted, places.waiting()), (tickets[2], 3));
    assert!(places.waiter(evicted).is_some(), "it is told so before it is forgotten");
    // One of two: no tenant has much more than another now.
    assert!(matches!(places.wait(2, 0), EnqueueResult::Full(_)));
}

#[test]
fn readers_that_do_not_read_keep_half_of_the_places() {
    let mut places = fixed(10);
    for _ in 0..10 {
        places.enter(1).unwrap();
    }
    for tenant in 2..22 {
        waits(&mut places, tenant);
    }
    assert!(places.next().is_none());
    places.pass_over(10, 0);
    assert_eq!(std::iter::from_fn(|| places.next()).count(), 5);
    // Whatever is told, no more than twice the limit is under way.
    places.pass_over(1_000, 1_000);
    assert_eq!(std::iter::from_fn(|| places.next()).count(), 5);
    assert_eq!(places.in_use(), 20);
}

#[test]
fn a_slow_upload_keeps_no_place() {
    let mut places = fixed(2);
    for tenant in [1, 2] {
        places.enter(tenant).unwrap();
    }
    for tenant in 3..7 {
        waits(&mut places, tenant);
    }
    // One reader that does not read keeps its half; one upload does not.
    places.pass_over(1, 0);
    assert!(places.next().is_none());
    places.pass_over(1, 1);
    assert!(places.next().is_some());
    assert!(places.next().is_none());
}

#[test]
fn the_first_waiter_is_the_one_whose_turn_it_is() {
    let mut places = fixed(1);
    let grant = places.enter(1).unwrap();
    assert!(matches!(places.wait(1, 7), EnqueueResult::Waits(_)));
    assert!(matches!(places.wait(2, 8), EnqueueResult::Waits(_)));
    places.leave(grant, Load::Unknown, None);
    let (ticket, grant) = places.next().unwrap();
    assert_eq!((places.waiter(ticket), grant.tenant), (Some(&mut 7), 1));
    assert_eq!(places.forget(ticket), Some(7));
    assert_eq!((places.forget(ticket), places.waiter(ticket)), (None, None));
    assert_eq!(places.waiting(), 1);
}

#[test]
fn the_mean_hold_moves_by_an_eighth() {
    let mut places = fixed(1);
    let mut hold = |hold| {
        let grant = places.enter(1).unwrap();
        places.leave(grant, Load::Unknown, Some(hold));
        places.expected_wait(1)
    };
    assert_eq!(hold(800), Some(800));
    assert_eq!(hold(1_600), Some(900));
    assert_eq!(hold(100), Some(800));
    assert_eq!(hold(800), Some(800));
    let mut places = fixed(1);
    let grant = places.enter(1).unwrap();
    places.leave(grant, Load::Unknown, Some(0));
    assert_eq!(places.expected_wait(1), Some(1), "a hold of nothing is one");
}

#[test]
fn half_of_an_odd_number_of_places_is_the_larger_half() {
    let mut places = fixed(3);
    let held: Vec<PlaceGrant> = (0..3).map(|_| places.enter(1).unwrap()).collect();
    let mine = waits(&mut places, 1);
    let theirs = waits(&mut places, 2);
    places.leave(held[0], Load::Unknown, None);
    assert_eq!(places.next().unwrap().0, theirs, "it holds two of three");
    places.leave(held[1], Load::Unknown, None);
    assert_eq!(places.next().unwrap().0, mine);
    assert_eq!((places.in_use(), places.limit()), (3, 3));
}

#[test]
fn an_adaptive_limit_learns_from_what_is_served_and_lost() {
    let mut places: Places<u32> = Places::new(ConcurrencyLimit::Adaptive(Adaptive::new(1, 100, 10)), 8);
    let held: Vec<PlaceGrant> = (0..10).map(|_| places.enter(1).unwrap()).collect();
    assert!(places.enter(1).is_none());
    places.leave(held[0], Load::Unknown, None);
    assert_eq!(places.limit(), 10);
    places.leave(held[1], Load::Lost, None);
    places.leave(held[2], Load::Lost, None);
    assert_eq!(places.limit(), 7, "once for those that were under way together");
    for grant in &held[3..] {
        places.leave(*grant, Load::Served, None);
    }
    assert_eq!((places.limit(), places.in_use()), (7, 0), "one round of successes at the limit is less than one more");
    let later = places.enter(1).unwrap();
    places.leave(later, Load::Lost, None);
    assert_eq!(places.limit(), 4);
}

/// Calls of each tenant arrive every so often and take a second; the longest wait of each but the first.
fn longest_wait(first_every: Micros) -> Micros {
    let mut places: Places<u32> = Places::new(ConcurrencyLimit::Fixed(10), 1_000_000);
    let mut arrivals: BinaryHeap<Reverse<(Micros, u64)>> = (0..10).map(|tenant| Reverse((0, tenant))).collect();
    let mut ends: BinaryHeap<Reverse<(Micros, u64, u32)>> = BinaryHeap::new();
    let mut since: HashMap<u32, (u64, Micros)> = HashMap::new();
    let (mut number, mut longest) = (0_u32, 0);
    loop {
        let arrival = arrivals.peek().map(|Reverse((at, _))| *at);
        let end = ends.peek().map(|Reverse((at, ..))| *at);
        let now = arrival.into_iter().chain(end).min().unwrap();
        if now > 60 * SECOND {
            return longest;
        }
        if end == Some(now) {
            let Reverse((_, tenant, round)) = ends.pop().unwrap();
            places.leave(PlaceGrant { tenant, round }, Load::Served, Some(SECOND));
        } else {
            let Reverse((_, tenant)) = arrivals.pop().unwrap();
            arrivals.push(Reverse((now + if tenant == 0 { first_every } else { SECOND }, tenant)));
            match places.enter(tenant) {
                Some(grant) => ends.push(Reverse((now + SECOND, grant.tenant, grant.round))),
                None => {
                    number += 1;
                    since.insert(number, (tenant, now));
                    places.wait(tenant, number);
                }
            }
        }
        while let Some((ticket, grant)) = places.next() {
            let (tenant, arrived) = since.remove(&places.forget(ticket).unwrap()).unwrap();
            if tenant != 0 {
                longest = longest.max(now - arrived);
            }
            ends.push(Reverse((now + SECOND, grant.tenant, grant.round)));
        }
    }
}

#[test]
fn a_tenant_that_sends_a_hundred_times_more_makes_the_others_wait_no_longer() {
    let (fair, flooded) = (longest_wait(SECOND), longest_wait(SECOND / 100));
    // One call is under way when another comes: a place is free within a second.
    assert!(flooded <= fair + SECOND, "{flooded} against {fair}");
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(u64),
    Leave(usize, Load),
    Cancel(usize),
    PassOver(u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let loads = prop_oneof![Just(Load::Served), Just(Load::Lost), Just(Load::Unknown)];
    let step = prop_oneof![
        4 => (0..4_u64).prop_map(Step::Arrive),
        3 => (any::<usize>(), loads).prop_map(|(which, load)| Step::Leave(which, load)),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (0..20_u32, 0..4_u32).prop_map(|(unread, uploading)| Step::PassOver(unread, uploading)),
    ];
    proptest::collection::vec(step, 1..300)
}

proptest! {
    /// In any order of events no place is lost or given twice, and none is free while a call waits.
    #[test]
    fn places_are_neither_lost_nor_idle(adaptive in any::<bool>(), limit in 1..8_u32, steps in steps()) {
        let limit = if adaptive { ConcurrencyLimit::Adaptive(Adaptive::new(1, 8, limit)) } else { ConcurrencyLimit::Fixed(limit) };
        let mut places: Places<()> = Places::new(limit, 16);
        let (mut held, mut waiting): (Vec<PlaceGrant>, Vec<Ticket>) = Default::default();
        for step in steps {
            match step {
                Step::Arrive(tenant) => match places.enter(tenant) {
                    Some(grant) => held.push(grant),
                    None => match places.wait(tenant, ()) {
                        EnqueueResult::Waits(ticket) => waiting.push(ticket),
                        EnqueueResult::InPlaceOf { evicted, ticket } => {
                            waiting.retain(|other| *other != evicted);
                            prop_assert!(places.forget(evicted).is_some());
                            waiting.push(ticket);
                        }
                        EnqueueResult::Full(()) => {}
                    },
                },
                Step::Leave(which, load) if !held.is_empty() => {
                    let grant = held.swap_remove(which % held.len());
                    places.leave(grant, load, Some(SECOND));
                }
                Step::Cancel(which) if !waiting.is_empty() => {
                    let ticket = waiting.swap_remove(which % waiting.len());
                    prop_assert!(places.forget(ticket).is_some());
                }
                Step::PassOver(unread, uploading) => places.pass_over(unread, uploading),
                Step::Leave(..) | Step::Cancel(_) => {}
            }
            while let Some((ticket, grant)) = places.next() {
                prop_assert!(waiting.contains(&ticket));
                waiting.retain(|other| *other != ticket);
                prop_assert!(places.forget(ticket).is_some());
                held.push(grant);
            }
            prop_assert_eq!(places.in_use() as usize, held.len());
            prop_assert_eq!(places.waiting(), waiting.len());
            prop_assert!(held.len() <= 2 * 8);
            let (limit, half) = (places.limit(), places.limit().div_ceil(2));
            let has_its_share = |ticket: &Ticket| {
                let tenant = places.queue.tenant(*ticket);
                tenant.and_then(|tenant| places.held.get(&tenant)).is_some_and(|held| *held >= half)
            };
            let is_kept = places.in_use() >= limit + half && waiting.iter().all(has_its_share);
            prop_assert!(waiting.is_empty() || !places.has_room() || is_kept);
            for tenant in 0..4 {
                let count = held.iter().filter(|grant| grant.tenant == tenant).count();
                prop_assert_eq!(places.held.get(&tenant).copied().unwrap_or_default() as usize, count);
            }
        }
    }
}
