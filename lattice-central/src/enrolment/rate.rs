//! How often an address may ask: each has a few requests, and gets one back every few seconds.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Requests that an address may make at once. An agent makes one, and one more for each retry.
const BURST: u32 = 10;
/// After so long it may make one more.
const REFILL: Duration = Duration::from_secs(5);
/// Addresses that are remembered; more than nodes, so that a flood from many cannot make the table grow.
const ADDRESSES_MAXIMUM: usize = 16_384;

/// What each address has left.
#[derive(Debug, Default)]
pub struct Rates {
    spent: HashMap<IpAddr, Spent>,
}

#[derive(Debug, Clone, Copy)]
struct Spent {
    requests: u32,
    since: Instant,
}

impl Spent {
    fn at(self, now: Instant) -> Self {
        let refills = now.saturating_duration_since(self.since).as_secs() / REFILL.as_secs();
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        Self {
            requests: self.requests.saturating_sub(refills),
            since: if refills >= self.requests {
                now
            } else {
                self.since + REFILL * refills
            },
        }
    }
}

impl Rates {
    /// Whether this address may make a request now; if so, it has made it.
    pub fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.spent.len() >= ADDRESSES_MAXIMUM && !self.spent.contains_key(&address) {
            self.spent.retain(|_, spent| spent.at(now).requests > 0);
            if self.spent.len() >= ADDRESSES_MAXIMUM {
                return false;
            }
        }
        let fresh = Spent {
            requests: 0,
            since: now,
        };
        let spent = self.spent.entry(address).or_insert(fresh);
        *spent = spent.at(now);
        if spent.requests >= BURST {
            return false;
        }
        spent.requests += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn an_address_gets_its_requests_back_one_by_one() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let granted = (0..20).filter(|_| rates.take(address(1), start)).count();
        assert_eq!(granted, BURST as usize);
        assert!(rates.take(address(2), start), "another is not held up");
        assert!(!rates.take(address(1), start + REFILL / 2));
        assert!(rates.take(address(1), start + REFILL));
        assert!(!rates.take(address(1), start + REFILL));
        let later = start + REFILL * 100;
        assert_eq!(
            (0..20).filter(|_| rates.take(address(1), later)).count(),
            BURST as usize
        );
    }

    #[test]
    fn many_addresses_do_not_make_the_table_grow() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for number in 0..=ADDRESSES_MAXIMUM as u32 {
            rates.take(address(number), start);
        }
        assert_eq!(rates.spent.len(), ADDRESSES_MAXIMUM);
        assert!(!rates.take(address(u32::MAX), start));
        assert!(
            rates.take(address(u32::MAX), start + REFILL),
            "those that ask no more are forgotten"
        );
    }
}
