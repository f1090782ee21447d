use std::time::Duration;

use super::*;

const CAP: Micros = 60 * SECOND;
const ANN: u64 = 1;
const BOB: u64 = 2;

fn call(tokens: u64) -> Demand {
    Demand { requests: 1, input: tokens, output: 0 }
}

fn pacer(rates: &[(Unit, Rate)]) -> Pacer {
    Pacer::new(rates.iter().map(|(unit, rate)| Bucket::new(*unit, *rate)).collect(), CAP)
}

fn quota(limit: u64, remaining: u64, seconds: u64) -> Quota {
    let reset =
        crate::proto::rate_limit::Reset { after: Duration::from_secs(seconds), resolution: Duration::from_secs(1) };
    Quota { unit: Unit::Requests, window: None, limit: Some(limit), remaining: Some(remaining), reset: Some(reset) }
}

fn go(pacer: &mut Pacer, tenant: u64, tokens: u64, now: Micros) -> Grant {
    match pacer.admit(tenant, call(tokens), now) {
        SendDecision::Go(grant) => grant,
        SendDecision::Wait(wait) => panic!("waits for {wait}"),
    }
}

#[test]
fn without_rates_nothing_waits_until_a_429() {
    let mut pacer = pacer(&[]);
    let now = 100 * SECOND;
    let grants: Vec<Grant> = (0..100).map(|_| go(&mut pacer, ANN, 0, now)).collect();
    // Four a second were served.
    for sample in [68, 84, 100] {
        pacer.served(&grants[0]);
        pacer.sample(sample * SECOND);
    }
    assert!(pacer.is_open(now));
    assert_eq!(pacer.throttled(&grants[60], &call(0), Some(20 * SECOND), now), Some(now + 20 * SECOND));
    // The other refusals of the same moment say the same.
    assert_eq!(pacer.throttled(&grants[61], &call(0), Some(20 * SECOND), now), None);
    assert!(!pacer.is_open(now));
    // They start again as they were served.
    let start = now + 20 * SECOND;
    assert_eq!(pacer.wait(BOB, &Demand { requests: 8, ..Demand::default() }, &call(0), now), 22 * SECOND);
    assert_eq!(pacer.admit(BOB, call(0), start - 1), SendDecision::Wait(1));
    go(&mut pacer, BOB, 0, start);
    assert_eq!(pacer.admit(BOB, call(0), start), SendDecision::Wait(SECOND / 4));
    assert!(!pacer.is_open(start));
    assert!(pacer.is_open(start + SECOND));
}

#[test]
fn what_was_not_sent_is_given_back_and_a_429_used_no_tokens() {
    let mut pacer =
        pacer(&[(Unit::Requests, Rate::per_minute(60)), (Unit::Tokens, Rate::per_minute(6000).burst(1000))]);
    let grant = go(&mut pacer, ANN, 1000, 0);
    assert!(!pacer.is_idle(0));
    assert!(matches!(pacer.admit(ANN, call(1000), 0), SendDecision::Wait(_)));
    pacer.give_back(&grant, &call(1000), false, 0);
    assert!(pacer.is_idle(0));

    let grant = go(&mut pacer, ANN, 1000, 0);
    pacer.throttled(&grant, &call(1000), Some(5 * SECOND), 0);
    assert_eq!(pacer.admit(ANN, call(1000), 5 * SECOND - 1), SendDecision::Wait(1));
    // The very call that was refused goes when the pause is over, and the next one has to wait for its tokens.
    go(&mut pacer, ANN, 1000, 5 * SECOND);
    assert_eq!(pacer.admit(ANN, call(1000), 5 * SECOND), SendDecision::Wait(10 * SECOND));
}

#[test]
fn a_probe_that_is_given_up_leaves_its_turn_to_the_next() {
    let mut pacer = pacer(&[]);
    let first = go(&mut pacer, ANN, 0, 0);
    pacer.throttled(&first, &call(0), None, 0);
    let probe = go(&mut pacer, ANN, 0, SECOND);
    assert!(matches!(pacer.admit(ANN, call(0), SECOND), SendDecision::Wait(_)));
    pacer.give_back(&probe, &call(0), true, SECOND);
    let next = 2 * SECOND;
    let probe = go(&mut pacer, ANN, 0, next);
    pacer.served(&probe);
    assert_eq!(
        pacer.admit(ANN, call(0), next + SECOND),
        SendDecision::Go(Grant { probe: false, sent: next + SECOND, ..probe })
    );
}

#[test]
fn limits_are_learned_once_and_then_followed() {
    let mut pacer = pacer(&[]);
    let quota = |remaining, seconds| Quota {
        unit: Unit::Requests,
        window: None,
        limit: Some(60),
        remaining: Some(remaining),
        reset: Some(crate::proto::rate_limit::Reset {
            after: Duration::from_secs(seconds),
            resolution: Duration::from_millis(1),
        }),
    };
    pacer.observe(&[quota(30, 30)], false, 0);
    assert!(pacer.buckets().is_empty());
    pacer.observe(&[quota(30, 30)], true, 0);
    pacer.observe(&[quota(2, 58)], true, 0);
    assert_eq!(pacer.buckets().len(), 1);
    for _ in 0..2 {
        go(&mut pacer, ANN, 0, 0);
    }
    assert_eq!(pacer.admit(ANN, call(0), 0), SendDecision::Wait(SECOND));
}

#[test]
fn an_upstream_teaches_a_bounded_number_of_limits() {
    let mut pacer = pacer(&[]);
    for window in 1..=100 {
        let quota = Quota {
            unit: Unit::Requests,
            window: Some(Duration::from_secs(60 * window)),
            limit: Some(60),
            remaining: Some(30),
            reset: Some(crate::proto::rate_limit::Reset {
                after: Duration::from_secs(30),
                resolution: Duration::from_millis(1),
            }),
        };
        pacer.observe(&[quota], true, 0);
    }
    assert_eq!(pacer.buckets().len(), BUCKETS);
}

#[test]
fn a_pause_of_another_process_pauses_all_and_is_never_shortened() {
    let mut pacer = pacer(&[(Unit::Tokens, Rate::per_minute(6000).burst(1000))]);
    let now = 100 * SECOND;
    pacer.pause(20 * SECOND, false, now);
    pacer.pause(5 * SECOND, false, now);
    assert_eq!(pacer.paused_until(), now + 20 * SECOND);
    assert!(!pacer.is_idle(now));
    for tenant in [ANN, BOB] {
        assert_eq!(pacer.admit(tenant, call(0), now), SendDecision::Wait(20 * SECOND));
    }
    // Longer than is believed: then one call finds out.
    pacer.pause(CAP * 10, false, now);
    assert_eq!(pacer.admit(ANN, call(0), now + CAP - 1), SendDecision::Wait(1));
    go(&mut pacer, ANN, 0, now + CAP);
    assert!(matches!(pacer.admit(BOB, call(0), now + CAP), SendDecision::Wait(_)));
}

/// A window that starts afresh at once: the rate that its answers teach is far too low to begin with.
#[test]
fn a_learned_limit_lets_all_of_a_fixed_window_pass() {
    let mut pacer = pacer(&[]);
    for taken in 1..=1_000 {
        let now = taken * SECOND;
        go(&mut pacer, ANN, 0, now);
        pacer.observe(&[quota(1_000, 1_000 - taken, 86_400 - taken)], true, now);
    }
    assert!(matches!(pacer.admit(ANN, call(0), 1_000 * SECOND), SendDecision::Wait(_)), "all of it is taken");
}

/// Two models behind one key, or an upstream that lies.
#[test]
fn what_was_taken_of_a_larger_limit_is_no_debt_of_a_smaller_one() {
    for (first, second, longest) in [
        (quota(2_000_000, 1_000_000, 30), quota(30_000, 20_000, 20), 60),
        (quota(1_000_000_000, 0, 60), quota(1_000, 0, 7 * 86_400), 7 * 86_400),
    ] {
        let mut pacer = pacer(&[]);
        pacer.observe(&[first], true, 0);
        pacer.observe(&[second], true, 0);
        go(&mut pacer, ANN, 0, (longest + 1) * SECOND);
    }
}

#[test]
fn a_limit_of_years_is_not_learned() {
    let mut pacer = pacer(&[]);
    let years = Quota { window: Some(Duration::from_secs(99_999_999_999)), ..quota(1, 0, 99_999_999_999) };
    pacer.observe(&[years, quota(1, 0, 99_999_999_999)], true, 0);
    assert!(pacer.buckets().is_empty());
    let week = quota(2, 1, 3 * 86_400);
    pacer.observe(&[week], true, 0);
    assert_eq!(pacer.buckets().len(), 1);
    // Nor does one that was learned become one of years.
    pacer.observe(&[quota(2, 1, 99_999_999_999)], true, 0);
    go(&mut pacer, ANN, 0, 7 * 86_400 * SECOND);
}

/// Its answer reported the limit, and what it had used by then.
#[test]
fn what_was_taken_of_no_bucket_is_given_back_to_none() {
    let mut pacer = pacer(&[]);
    let grants = [0, 1].map(|_| go(&mut pacer, ANN, 512, 0));
    let tokens = Quota { unit: Unit::Tokens, ..quota(60_000, 1_000, 59) };
    pacer.observe(&[tokens], true, 0);
    for grant in &grants {
        pacer.give_back(grant, &call(512), false, 0);
    }
    assert_eq!(pacer.buckets()[0].remaining(0), 1_000);
}
