//! Rules of SPC-4, section 5.13, one by one.

use super::*;
use proptest::prelude::*;

const A: &str = "iqn.a,i,0x1";
const B: &str = "iqn.b,i,0x2";
const C: &str = "iqn.c,i,0x3";

fn order(from: &str, action: Action, key: u64, action_key: u64, kind: Kind) -> Order<'_> {
    Order {
        from,
        action,
        key,
        action_key,
        kind: Some(kind),
        persist: false,
    }
}

/// Registered with keys 1 and 2, and reserved by the first.
fn two(kind: Kind) -> Reservations {
    let mut reservations = Reservations::default();
    for (from, key) in [(A, 1), (B, 2)] {
        let registered = reservations.carry_out(&order(from, Action::Register(false), 0, key, kind));
        assert_eq!(registered, Ok(Effects::default()));
    }
    let reserved = reservations.carry_out(&order(A, Action::Reserve, 1, 0, kind));
    assert_eq!(reserved, Ok(Effects::default()));
    reservations
}

#[test]
fn each_type_lets_through_what_it_says() {
    use Kind::*;
    // Holder, registered, other: may they read, may they write?
    let table = [
        (WriteExclusive, [(true, true), (true, false), (true, false)]),
        (ExclusiveAccess, [(true, true), (false, false), (false, false)]),
        (
            WriteExclusiveRegistrantsOnly,
            [(true, true), (true, true), (true, false)],
        ),
        (
            ExclusiveAccessRegistrantsOnly,
            [(true, true), (true, true), (false, false)],
        ),
        (
            WriteExclusiveAllRegistrants,
            [(true, true), (true, true), (true, false)],
        ),
        (
            ExclusiveAccessAllRegistrants,
            [(true, true), (true, true), (false, false)],
        ),
    ];
    for (kind, expected) in table {
        let reservations = two(kind);
        for (who, (reads, changes)) in [A, B, C].into_iter().zip(expected) {
            assert_eq!(reservations.allow(who, Touch::Reads), reads, "{kind:?} {who}");
            assert_eq!(reservations.allow(who, Touch::Changes), changes, "{kind:?} {who}");
            assert!(reservations.allow(who, Touch::Nothing));
        }
    }
}

#[test]
fn only_the_registered_key_gives_orders() {
    let mut reservations = two(Kind::WriteExclusive);
    for action in [
        Action::Reserve,
        Action::Release,
        Action::Clear,
        Action::Preempt(false),
    ] {
        for (from, key) in [(B, 1), (C, 1), (C, 0)] {
            let refused = reservations.carry_out(&order(from, action, key, 1, Kind::WriteExclusive));
            assert_eq!(refused, Err(Refused::Conflict), "{action:?} {from} {key}");
        }
    }
    let wrong = reservations.carry_out(&order(A, Action::Register(false), 2, 9, Kind::WriteExclusive));
    assert_eq!(wrong, Err(Refused::Conflict));
    assert_eq!(reservations, two(Kind::WriteExclusive));
    let ignored = reservations.carry_out(&order(A, Action::Register(true), 2, 9, Kind::WriteExclusive));
    assert!(ignored.is_ok());
    assert_eq!(reservations.registrants[A], 9);
}

#[test]
fn a_second_reservation_is_refused_and_the_same_again_is_not() {
    let mut reservations = two(Kind::WriteExclusive);
    let reserve = |from, key, kind| order(from, Action::Reserve, key, 0, kind);
    assert!(
        reservations
            .carry_out(&reserve(A, 1, Kind::WriteExclusive))
            .is_ok()
    );
    for (from, key, kind) in [(A, 1, Kind::ExclusiveAccess), (B, 2, Kind::WriteExclusive)] {
        let refused = reservations.carry_out(&reserve(from, key, kind));
        assert_eq!(refused, Err(Refused::Conflict));
    }
    let mut shared = two(Kind::WriteExclusiveAllRegistrants);
    assert!(
        shared
            .carry_out(&reserve(B, 2, Kind::WriteExclusiveAllRegistrants))
            .is_ok()
    );
}

#[test]
fn a_release_tells_those_who_lose_by_it() {
    for (kind, told) in [
        (Kind::WriteExclusive, vec![]),
        (
            Kind::ExclusiveAccessRegistrantsOnly,
            vec![(B.to_owned(), Additional::ReservationsReleased)],
        ),
    ] {
        let mut reservations = two(kind);
        let not_holder = reservations.carry_out(&order(B, Action::Release, 2, 0, kind));
        assert_eq!(not_holder, Ok(Effects::default()));
        assert!(reservations.held.is_some());
        let other_kind = if kind == Kind::WriteExclusive {
            Kind::ExclusiveAccess
        } else {
            Kind::WriteExclusive
        };
        let wrong = reservations.carry_out(&order(A, Action::Release, 1, 0, other_kind));
        let sense = Sense::illegal(Additional::InvalidReleaseOfPersistentReservation);
        assert_eq!(wrong, Err(Refused::Check(sense)));
        let released = reservations
            .carry_out(&order(A, Action::Release, 1, 0, kind))
            .unwrap();
        assert_eq!(released.attentions, told);
        assert_eq!(reservations.held, None);
    }
}

#[test]
fn a_holder_that_unregisters_takes_its_reservation_along() {
    let unregister = |from, key| order(from, Action::Register(false), key, 0, Kind::WriteExclusive);
    let mut alone = two(Kind::WriteExclusiveRegistrantsOnly);
    let effects = alone.carry_out(&unregister(A, 1)).unwrap();
    assert_eq!(
        effects.attentions,
        [(B.to_owned(), Additional::ReservationsReleased)]
    );
    assert_eq!(alone.held, None);
    let mut shared = two(Kind::ExclusiveAccessAllRegistrants);
    assert!(shared.carry_out(&unregister(A, 1)).is_ok());
    assert!(shared.is_holder(B), "the other one holds it still");
    assert!(shared.carry_out(&unregister(B, 2)).is_ok());
    assert_eq!(shared.held, None);
}

#[test]
fn preempting_takes_the_reservation_or_registrations() {
    let preempt = |key, abort| order(B, Action::Preempt(abort), 2, key, Kind::ExclusiveAccess);
    let mut taken = two(Kind::WriteExclusive);
    let effects = taken.carry_out(&preempt(1, true)).unwrap();
    assert_eq!(
        effects.attentions,
        [(A.to_owned(), Additional::RegistrationsPreempted)]
    );
    assert_eq!(effects.aborted, [A]);
    let by = B.to_owned();
    assert_eq!(
        taken.held,
        Some(Held {
            kind: Kind::ExclusiveAccess,
            by
        })
    );
    assert_eq!(taken.registrants.len(), 1);

    let mut unknown = two(Kind::WriteExclusive);
    assert_eq!(unknown.carry_out(&preempt(77, false)), Err(Refused::Conflict));
    let zero = unknown.carry_out(&preempt(0, false));
    assert!(matches!(zero, Err(Refused::Check(_))), "{zero:?}");
    assert_eq!(unknown, two(Kind::WriteExclusive));

    let mut of_all = two(Kind::WriteExclusiveAllRegistrants);
    assert!(of_all.carry_out(&preempt(0, false)).is_ok());
    assert!(of_all.is_holder(B) && !of_all.registrants.contains_key(A));
}

#[test]
fn clearing_leaves_nothing_and_tells_everybody_else() {
    let mut reservations = two(Kind::ExclusiveAccess);
    let effects = reservations
        .carry_out(&order(B, Action::Clear, 2, 0, Kind::ExclusiveAccess))
        .unwrap();
    assert_eq!(
        effects.attentions,
        [(A.to_owned(), Additional::ReservationsPreempted)]
    );
    assert!(reservations.registrants.is_empty() && reservations.held.is_none());
}

fn orders() -> impl Strategy<Value = Vec<(usize, u8, u64, u64, u8)>> {
    proptest::collection::vec((0..3_usize, 0..7_u8, 0..4_u64, 0..4_u64, 0..9_u8), 0..60)
}

proptest! {
    /// Whatever is ordered: a reservation has a holder that is registered, an order that is refused changes nothing, and what
    /// was written to the file is what is read.
    #[test]
    fn a_reservation_is_always_somebodys(orders in orders()) {
        let mut reservations = Reservations::default();
        for (who, action, key, action_key, kind) in orders {
            let from = [A, B, C][who];
            let action = match action {
                0 => Action::Register(false),
                1 => Action::Register(true),
                2 => Action::Reserve,
                3 => Action::Release,
                4 => Action::Clear,
                5 => Action::Preempt(false),
                _ => Action::Preempt(true),
            };
            let before = reservations.clone();
            let order = Order { from, action, key, action_key, kind: Kind::of_code(kind), persist: false };
            let done = reservations.carry_out(&order);
            if done.is_err() {
                prop_assert_eq!(&reservations, &before);
            }
            if let Some(held) = &reservations.held {
                prop_assert!([A, B, C].iter().any(|name| reservations.is_holder(name)), "{:?}", held);
                prop_assert!(held.kind.is_all_registrants() || reservations.registrants.contains_key(&held.by));
            }
            if let Ok(effects) = &done {
                prop_assert!(effects.attentions.iter().all(|(name, _)| name != from));
            }
            let text = serde_json::to_string(&reservations).unwrap();
            prop_assert_eq!(serde_json::from_str::<Reservations>(&text).unwrap(), reservations.clone());
        }
    }
}
