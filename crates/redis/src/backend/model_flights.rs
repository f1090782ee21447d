//! Calls and their answers, in memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tower_buttress::store::{Fingerprint, TenantHash};

use super::model::{Channel, ENTRY_BYTES, Expiring, Meta, Offer, Quota, RedisModel, State};
use super::names::{Want, encode_want};
use super::{
    Appended, Ask, Backend, BackendError, ClaimArgs, Claimed, FORSAKEN, Flight, FlightEnd, FlightState, LogShare,
    Offered, Piece, Process, STRANGERS, Settled, Subscription, Token,
};

impl Backend for RedisModel {
    async fn claim(&self, claim: ClaimArgs) -> Result<Claimed, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let Some(Expiring { value: meta, until }) = state.flights.get_mut(&claim.key) else {
            let ClaimArgs { key, payload, token, owner, lease } = claim;
            let meta = Meta {
                payload,
                token,
                state: FlightState::InFlight,
                owner,
                begun: now,
                tenant: None,
                quota: None,
                lasts: lease,
            };
            state.flights.insert(key, Expiring { value: meta, until: now + lease });
            return Ok(Claimed::Lead);
        };
        *until = (*until).min(now + meta.lasts);
        let same_payload = meta.payload == claim.payload;
        if same_payload && meta.token == claim.token && meta.state != FlightState::Kept {
            return Ok(Claimed::Lead);
        }
        // As the script does, which reports only whether a flight with another payload is kept.
        let state = if same_payload || meta.state == FlightState::Kept { meta.state } else { FlightState::InFlight };
        Ok(Claimed::Taken {
            state,
            same_payload,
            token: meta.token,
            owner: meta.owner,
            age: now.saturating_duration_since(meta.begun),
            ttl: *until - now,
        })
    }

    async fn renew(&self, flight: Flight, lease: Duration) -> Result<bool, BackendError> {
        let mut state = self.reach()?;
        let until = state.now() + lease;
        let Some(meta) = state.open(&flight) else { return Ok(false) };
        (meta.until, meta.value.lasts) = (until, lease);
        Ok(true)
    }

    async fn outgrow(&self, flight: Flight) -> Result<bool, BackendError> {
        let mut state = self.reach()?;
        let Some(meta) = state.open(&flight) else { return Ok(false) };
        meta.value.state = FlightState::Outgrown;
        Ok(true)
    }

    async fn append(
        &self,
        flight: Flight,
        offset: u64,
        bytes: Bytes,
        ttl: Duration,
        share: LogShare,
    ) -> Result<Appended, BackendError> {
        let mut state = self.reach()?;
        let length = state.logs.get(&flight).map_or(0, |log| log.value.len());
        let Some(at) = usize::try_from(offset).ok().filter(|at| *at <= length) else {
            return Ok(Appended::Rewind { length: length as u64 });
        };
        let until = state.now() + ttl;
        let shared = state.shared.entry(share.tenant).or_default();
        if !bytes.is_empty() || shared.contains_key(&flight.token) {
            let (before, lasts) = shared.get(&flight.token).copied().unwrap_or((0, until));
            let after = length.max(at + bytes.len()) as u64;
            let sum = shared.values().map(|(bytes, _)| bytes).sum::<u64>() - before;
            if after > before && sum + after > share.bytes {
                return Ok(Appended::NoRoom);
            }
            shared.insert(flight.token, (after, lasts.max(until)));
        }
        if !bytes.is_empty() {
            let log = state.logs.entry(flight).or_insert_with(|| Expiring { value: BytesMut::new(), until });
            let end = at + bytes.len();
            if log.value.len() < end {
                log.value.resize(end, 0);
            }
            log.value[at..end].copy_from_slice(&bytes);
        }
        if let Some(log) = state.logs.get_mut(&flight) {
            log.until = log.until.max(until);
        }
        let message = [&Piece::header(offset)[..], &bytes].concat().into();
        Ok(Appended::Written { receivers: state.publish(Channel::Flight(flight), &message) })
    }

    async fn settle(&self, flight: Flight, outcome: FlightEnd) -> Result<Settled, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let has_subscriber = state.has_subscriber(Channel::Flight(flight));
        let State { flights, logs, kept, shared, .. } = &mut *state;
        let length = logs.get(&flight).map_or(0, |log| log.value.len()) as u64;
        let Some(meta) = flights.get_mut(&flight.key).filter(|meta| meta.value.token == flight.token) else {
            return Ok(Settled::Lost);
        };
        match outcome {
            FlightEnd::Free if meta.value.state == FlightState::Kept => return Ok(Settled::Lost),
            FlightEnd::Keep { .. } if meta.value.state == FlightState::Kept => return Ok(Settled::Done),
            FlightEnd::Free => {
                flights.remove(&flight.key);
            }
            FlightEnd::Keep { length: whole, .. } if whole != length => return Ok(Settled::NotWhole),
            FlightEnd::Keep { window, tenant, tenant_bytes, owner, .. } => {
                let kept = kept.entry(tenant).or_default();
                kept.retain(|(_, until)| *until > now);
                let cost = length + ENTRY_BYTES;
                let has_room = kept.iter().map(|(bytes, _)| bytes).sum::<u64>() + cost <= tenant_bytes;
                if has_room || !has_subscriber {
                    for tenant in [tenant, STRANGERS] {
                        shared.entry(tenant).or_default().remove(&flight.token);
                    }
                }
                if !has_room {
                    if !has_subscriber {
                        logs.remove(&flight);
                    }
                    return Ok(Settled::NoRoom);
                }
                kept.push((cost, now + window));
                meta.value.state = FlightState::Kept;
                meta.value.tenant = owner;
                meta.value.quota = Some(Quota { tenant, bytes: cost, until: now + window });
                (meta.until, meta.value.lasts) = (now + window, window);
                if let Some(log) = logs.get_mut(&flight) {
                    log.until = now + window;
                }
            }
        }
        Ok(Settled::Done)
    }

    async fn discard(&self, flight: Flight, tenant: Fingerprint) -> Result<bool, BackendError> {
        let mut state = self.reach()?;
        let State { flights, logs, kept, .. } = &mut *state;
        let is_kept = |meta: &Expiring<Meta>| meta.value.token == flight.token && meta.value.state == FlightState::Kept;
        let Some(meta) = flights.get(&flight.key).filter(|meta| is_kept(meta)).map(|meta| meta.value) else {
            return Ok(false);
        };
        meta.quota
            .filter(|quota| [tenant, STRANGERS].contains(&quota.tenant))
            .iter()
            .for_each(|quota| quota.give_back(kept));
        flights.remove(&flight.key);
        logs.remove(&flight);
        Ok(true)
    }

    async fn read(&self, flight: Flight, offset: u64, max: usize) -> Result<Bytes, BackendError> {
        let state = self.reach()?;
        let Some(log) = state.logs.get(&flight) else { return Ok(Bytes::new()) };
        let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(log.value.len());
        let end = begin.saturating_add(max).min(log.value.len());
        Ok(Bytes::copy_from_slice(&log.value[begin..end]))
    }

    async fn holder(&self, key: Fingerprint) -> Result<Option<Token>, BackendError> {
        Ok(self.reach()?.flights.get(&key).map(|meta| meta.value.token))
    }

    async fn want(&self, process: Process, want: Want) -> Result<u64, BackendError> {
        Ok(self.reach()?.publish(Channel::Inbox(process), &encode_want(want)))
    }

    async fn forsake(&self, flight: Flight) -> Result<u64, BackendError> {
        let message = Bytes::copy_from_slice(&Piece::header(FORSAKEN));
        Ok(self.reach()?.publish(Channel::Flight(flight), &message))
    }

    async fn mark(&self, flight: Flight, length: u64) -> Result<u64, BackendError> {
        Ok(self.reach()?.publish(Channel::Flight(flight), &Piece::caught_up(length)))
    }

    async fn offer(
        &self,
        token: Fingerprint,
        offered: Offered,
        owner: Option<TenantHash>,
        ttl: Duration,
    ) -> Result<(), BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        state.offers.insert(token, Expiring { value: Offer { offered, offered_at: now, owner }, until: now + ttl });
        Ok(())
    }

    async fn offered(&self, token: Fingerprint) -> Result<Option<Offered>, BackendError> {
        let state = self.reach()?;
        Ok(state.offers.get(&token).map(|offer| {
            let Offer { offered, offered_at, .. } = offer.value;
            Offered { age: (state.now() + offered.age).saturating_duration_since(offered_at), ..offered }
        }))
    }

    async fn withdraw(&self, token: Fingerprint) -> Result<(), BackendError> {
        self.reach()?.offers.remove(&token);
        Ok(())
    }

    async fn ask(&self, process: Process, ask: Ask) -> Result<u64, BackendError> {
        Ok(self.reach()?.publish(Channel::Inbox(process), &ask.encode()))
    }

    async fn listen(&self, flight: Flight) -> Result<Subscription, BackendError> {
        self.subscribe(Channel::Flight(flight))
    }

    async fn inbox(&self, process: Process) -> Result<Subscription, BackendError> {
        self.subscribe(Channel::Inbox(process))
    }
}

// === impl State ===

impl State {
    /// The flight, while it holds its lease and is not kept.
    fn open(&mut self, flight: &Flight) -> Option<&mut Expiring<Meta>> {
        let meta = self.flights.get_mut(&flight.key)?;
        (meta.value.token == flight.token && meta.value.state != FlightState::Kept).then_some(meta)
    }
}
