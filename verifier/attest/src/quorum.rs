//! Quorum arithmetic for `n` replicas of which at most `f` are Byzantine.
//!
//! Two quorums must share an honest member (`2q > n + f`) and `f` silent members must not block (`q <= n - f`), which
//! together need `n >= 3f + 1`. The smallest safe quorum is `(n + f) / 2 + 1`. The widespread `q = 2f + 1` is that value
//! only when `n = 3f + 1` exactly; for larger groups two such "quorums" can be disjoint.

/// A group size, fault budget or stated quorum that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// `n < 3f + 1`.
    #[error("{n} members cannot tolerate {f} faults: n = {n} >= 3f + 1 = {} is false", needed(.f))]
    Infeasible {
        /// Members.
        n: u64,
        /// Fault budget.
        f: u64,
    },
    /// Two sets of the stated size need not share an honest member.
    #[error(
        "stated quorum {stated} is unsafe for n = {n}, f = {f}: 2*{stated} = {} > n + f = {} is false: \
         two quorums may share no honest member",
        twice(.stated),
        sum(.n, .f)
    )]
    Unsafe {
        /// Quorum stated.
        stated: u64,
        /// Members.
        n: u64,
        /// Fault budget.
        f: u64,
    },
    /// `f` silent members block a quorum of the stated size.
    #[error(
        "stated quorum {stated} is not live for n = {n}, f = {f}: {stated} <= n - f = {} is false: \
         {f} silent members block every quorum",
        n.saturating_sub(*f)
    )]
    NotLive {
        /// Quorum stated.
        stated: u64,
        /// Members.
        n: u64,
        /// Fault budget.
        f: u64,
    },
    /// Safe and live, yet not the one every party derives, so it would not be obeyed.
    #[error(
        "stated quorum {stated} differs from the derived quorum (n + f) / 2 + 1 = {derived}: \
         parties that count differently do not agree"
    )]
    Differs {
        /// Quorum stated.
        stated: u64,
        /// Quorum every party derives.
        derived: u64,
    },
}

impl QuorumError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        "BadConfig"
    }
}

fn needed(f: &u64) -> u128 {
    3 * u128::from(*f) + 1
}

fn twice(stated: &u64) -> u128 {
    2 * u128::from(*stated)
}

fn sum(n: &u64, f: &u64) -> u128 {
    u128::from(*n) + u128::from(*f)
}

/// A feasible pair of group size and fault budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuorumRule {
    n: u64,
    f: u64,
}

impl QuorumRule {
    /// The rule for `n` members with at most `f` Byzantine; refuses `n < 3f + 1`.
    pub fn new(n: u64, f: u64) -> Result<Self, QuorumError> {
        if u128::from(n) < needed(&f) {
            return Err(QuorumError::Infeasible { n, f });
        }
        Ok(Self { n, f })
    }

    /// Members.
    pub const fn n(&self) -> u64 {
        self.n
    }

    /// Most Byzantine members.
    pub const fn f(&self) -> u64 {
        self.f
    }

    /// Votes that make a certificate: `(n + f) / 2 + 1`.
    pub const fn quorum(&self) -> u64 {
        // n + f overflows 64 bits; the quorum itself is at most n.
        ((self.n as u128 + self.f as u128) / 2 + 1) as u64
    }

    /// Identical answers of distinct members that include one of an honest member: `f + 1`.
    pub const fn matching_replies(&self) -> u64 {
        self.f + 1
    }

    /// Checks a quorum that a configuration states: it must be safe, live and the derived one.
    pub fn check_stated(&self, stated: u64) -> Result<(), QuorumError> {
        let (n, f) = (self.n, self.f);
        if twice(&stated) <= sum(&n, &f) {
            return Err(QuorumError::Unsafe { stated, n, f });
        }
        if stated > n - f {
            return Err(QuorumError::NotLive { stated, n, f });
        }
        let derived = self.quorum();
        if stated != derived {
            return Err(QuorumError::Differs { stated, derived });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    /// n, f, `2f + 1`, correct quorum.
    const TABLE: [(u64, u64, u64, u64); 10] = [
        (4, 1, 3, 3),
        (5, 1, 3, 4),
        (6, 1, 3, 4),
        (7, 1, 3, 5),
        (7, 2, 5, 5),
        (8, 2, 5, 6),
        (9, 2, 5, 6),
        (10, 2, 5, 7),
        (10, 3, 7, 7),
        (13, 4, 9, 9),
    ];

    #[test]
    fn test_quorum_table_of_the_specification() {
        for (n, f, _, quorum) in TABLE {
            assert_eq!(QuorumRule::new(n, f).unwrap().quorum(), quorum, "n={n} f={f}");
        }
    }

    #[test]
    fn test_two_f_plus_one_is_refused_wherever_quorums_would_not_intersect_in_an_honest_member() {
        for (n, f, textbook, quorum) in TABLE {
            let checked = QuorumRule::new(n, f).unwrap().check_stated(textbook);
            if n == 3 * f + 1 {
                assert_eq!(textbook, quorum);
                assert_eq!(checked, Ok(()));
            } else {
                assert_eq!(checked, Err(QuorumError::Unsafe { stated: textbook, n, f }));
            }
        }
    }

    #[test]
    fn test_stated_quorum_that_blocks_or_differs_is_refused() {
        let rule = QuorumRule::new(10, 2).unwrap();
        assert_eq!(rule.check_stated(9), Err(QuorumError::NotLive { stated: 9, n: 10, f: 2 }));
        assert_eq!(rule.check_stated(8), Err(QuorumError::Differs { stated: 8, derived: 7 }));
        assert_eq!(rule.check_stated(u64::MAX).unwrap_err().kind(), "BadConfig");
        assert_eq!(rule.matching_replies(), 3);
    }

    #[test]
    fn test_refusal_of_a_stated_quorum_shows_the_arithmetic() {
        let rule = QuorumRule::new(10, 2).unwrap();
        let text = |stated| rule.check_stated(stated).unwrap_err().to_string();
        assert_eq!(
            text(5),
            "stated quorum 5 is unsafe for n = 10, f = 2: 2*5 = 10 > n + f = 12 is false: \
             two quorums may share no honest member"
        );
        assert_eq!(
            text(9),
            "stated quorum 9 is not live for n = 10, f = 2: 9 <= n - f = 8 is false: \
             2 silent members block every quorum"
        );
        assert_eq!(
            text(8),
            "stated quorum 8 differs from the derived quorum (n + f) / 2 + 1 = 7: \
             parties that count differently do not agree"
        );
        assert_eq!(
            QuorumRule::new(6, 2).unwrap_err().to_string(),
            "6 members cannot tolerate 2 faults: n = 6 >= 3f + 1 = 7 is false"
        );
        assert!(QuorumRule::new(1, u64::MAX).unwrap_err().to_string().contains("55340232221128654846"));
    }

    #[test]
    fn test_infeasible_groups_are_refused() {
        for (n, f) in [(0, 0), (3, 1), (6, 2), (u64::MAX, u64::MAX), (u64::MAX, u64::MAX / 3)] {
            assert_eq!(QuorumRule::new(n, f), Err(QuorumError::Infeasible { n, f }));
        }
        assert!(QuorumRule::new(u64::MAX, u64::MAX / 3 - 1).is_ok());
        assert_eq!(QuorumRule::new(1, 0).unwrap().quorum(), 1);
    }

    proptest! {
        #[test]
        fn test_quorums_intersect_in_an_honest_member_and_silent_members_do_not_block(
            n in prop_oneof![1..200u64, u64::MAX - 200..=u64::MAX, any::<u64>()],
            part in any::<u64>(),
        ) {
            let f_max = n.saturating_sub(1) / 3;
            let f = if f_max == u64::MAX { part } else { part % (f_max + 1) };
            prop_assume!(n >= 1);
            let rule = QuorumRule::new(n, f).unwrap();
            let q = u128::from(rule.quorum());
            prop_assert!(2 * q > u128::from(n) + u128::from(f));
            prop_assert!(q <= u128::from(n - f));
            prop_assert!(2 * (q - 1) <= u128::from(n) + u128::from(f), "not the smallest");
            let without_overflow = n / 2 + f / 2 + ((n & 1) + (f & 1)) / 2 + 1;
            prop_assert_eq!(rule.quorum(), without_overflow);
            prop_assert_eq!(rule.check_stated(rule.quorum()), Ok(()));
        }
    }
}
