use crate::world::*;
use quorate_attest::id::*;
use quorate_attest::request::status;
use quorate_attest::statement::Kind;
use quorate_attest::vm::*;
use quorate_control::*;

#[test]
fn test_migration_from_begin_to_activate_moves_the_vm_and_raises_its_generation() {
    let (mut log, vm) = Log::with_vm();
    let begin = Command::Begin { vm, destination: host(1).public(), generation: Generation(1) };
    let begun = log.decided(&operator(1), begin);
    assert_eq!(begun.check_migrate(Generation(1), &host(0).public(), &host(1).public()), Ok(()));
    assert_eq!(log.vm(&vm).generation, Generation(0), "permission to prepare is not a new generation");
    let relinquish = log.relinquish(vm, 5, 1);
    let handover = Command::Handover { migration: begun.operation, relinquish: relinquish.clone() };
    let grant = log.decided(&host(1), handover);
    let allowed = grant.check_grant(Generation(1), Slot(5), relinquish.statement, &host(1).public());
    assert_eq!(allowed, Ok(()));
    assert_eq!((grant.index, grant.epoch, grant.group), (2, Epoch(0), log.control.group()));
    assert_eq!(log.vm(&vm).host, host(0).public(), "a grant is no fact");
    let certificate = log.activation(&grant);
    let answer = log.submit(&host(1), Command::Activate { certificate }).result;
    assert_eq!(answer, Ok(Answer::Activated { vm, generation: Generation(1) }));
    let record = log.vm(&vm);
    assert_eq!((record.generation, record.host), (Generation(1), host(1).public()));
    assert_eq!((record.grants.len(), record.migration.is_none()), (0, true));
    assert_eq!(record.head.map(|head| head.slot), Some(Slot(5)));
    assert_eq!(log.control.migration(&begun.operation).unwrap().phase, Phase::Activated);
}

#[test]
fn test_grant_is_a_certificate_that_verifiers_accept() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let relinquish = log.relinquish(vm, 5, 1);
    let grant = log.decided(&host(0), Command::Handover { migration, relinquish });
    let group = orchestrators();
    let mut tally = DecisionTally::new(&group, grant.clone()).unwrap();
    for number in 0..3 {
        tally.add(number, grant.sign(&orchestrator_key(number))).unwrap();
    }
    let certificate = tally.certificate().unwrap();
    assert_eq!(certificate.verify(&group, &group.expected(vm, Kind::DECISION)), Ok(()));
}

#[test]
fn test_of_two_operators_who_migrate_one_vm_one_wins_and_the_other_learns_who() {
    let (mut log, vm) = Log::with_vm();
    let to =
        |number: u16| Command::Begin { vm, destination: host(number).public(), generation: Generation(1) };
    let winner = log.decided(&operator(0), to(1));
    let failure = log.refused(&operator(1), to(2));
    assert_eq!(code(&failure), (status::CONFLICT, "Conflict"));
    assert_eq!(failure.winner.as_deref(), Some(&winner));
    let names = format!("was begun by {} at log index 1", operator(0).public());
    assert!(failure.text.contains(&names), "{failure}");
}

#[test]
fn test_begin_with_another_generation_than_the_next_is_a_conflict() {
    let (mut log, vm) = Log::with_vm();
    for generation in [0, 2, u64::MAX] {
        let generation = Generation(generation);
        let failure =
            log.refused(&operator(0), Command::Begin { vm, destination: host(1).public(), generation });
        assert!(failure.text.contains("generation 1 of VM vm is next"), "{failure}");
    }
    let here = Command::Begin { vm, destination: host(0).public(), generation: Generation(1) };
    assert_eq!(log.refused(&operator(0), here).code, status::CONFLICT);
    let nowhere = Command::Begin { vm, destination: stranger().public(), generation: Generation(1) };
    assert_eq!(log.refused(&operator(0), nowhere).kind(), "KeyRoleMismatch");
}

#[test]
fn test_replay_of_a_begin_that_was_given_up_does_not_begin_again() {
    let (mut log, vm) = Log::with_vm();
    let begin = Command::Begin { vm, destination: host(1).public(), generation: Generation(1) };
    let operation = log.operation(&operator(0), &begin);
    let Ok(Answer::Decided(begun)) = log.apply(&operation).result else { panic!("not begun") };
    let abort = Command::Abort { vm, migration: begun.operation, evidence: AbortEvidence::NotStopped };
    assert!(log.submit(&host(0), abort.clone()).result.is_ok());
    assert_eq!(log.apply(&operation).result.unwrap_err().code, status::CONFLICT);
    assert_eq!(log.submit(&host(0), abort).result, Ok(Answer::Aborted { vm, migration: begun.operation }));
    assert_eq!(log.vm(&vm).next_generation, Generation(2));
}

#[test]
fn test_handover_after_abort_is_a_conflict_and_abort_after_handover_too() {
    let (log, vm) = Log::with_vm();
    let mut begun = log;
    let migration = begun.begin(vm, 1);
    let handover = Command::Handover { migration, relinquish: begun.relinquish(vm, 5, 1) };
    let back = AbortEvidence::Relinquished(begun.relinquish(vm, 5, 0));
    let abort = Command::Abort { vm, migration, evidence: back };

    let mut first = begun.clone();
    let grant = first.decided(&host(1), handover.clone());
    for evidence in [abort.clone(), Command::Abort { vm, migration, evidence: AbortEvidence::NotStopped }] {
        let failure = first.refused(&host(0), evidence);
        assert_eq!((failure.code, failure.winner.as_deref()), (status::CONFLICT, Some(&grant)));
    }

    let mut second = begun;
    let grant = second.decided(&host(0), abort);
    assert_eq!((granted_to(&grant), grant.generation), (host(0).public(), Generation(1)));
    let failure = second.refused(&host(1), handover);
    assert_eq!((failure.code, failure.winner.as_deref()), (status::CONFLICT, Some(&grant)));
    assert!(second.activate(&grant).result.is_ok());
    assert_eq!(second.vm(&vm).host, host(0).public());
}

#[test]
fn test_source_that_stopped_before_it_heard_of_the_abort_gets_a_generation_of_its_own() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let handover = Command::Handover { migration, relinquish: log.relinquish(vm, 5, 1) };
    let abort = |evidence| Command::Abort { vm, migration, evidence };
    assert!(log.submit(&operator(0), abort(AbortEvidence::NotStopped)).result.is_ok());
    assert_eq!(log.refused(&host(1), handover.clone()).winner, None);
    let back = abort(AbortEvidence::Relinquished(log.relinquish(vm, 5, 0)));
    let grant = log.decided(&host(0), back.clone());
    assert_eq!((grant.generation, granted_to(&grant)), (Generation(2), host(0).public()));
    assert_eq!(log.refused(&host(1), handover).winner.as_deref(), Some(&grant));
    assert_eq!(log.decided(&host(0), back), grant, "asked again, the same decision");
    assert!(log.activate(&grant).result.is_ok());
}

#[test]
fn test_declined_grant_gives_the_source_the_next_generation() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let relinquish = log.relinquish(vm, 5, 1);
    let first = log.decided(&host(1), Command::Handover { migration, relinquish });
    let refusal = log.refusal(vm, &migration, 1);
    let declined = Command::Abort { vm, migration, evidence: AbortEvidence::Declined(refusal) };
    let second = log.decided(&host(0), declined.clone());
    assert_eq!((second.generation, granted_to(&second)), (Generation(2), host(0).public()));
    assert_eq!(log.decided(&host(1), declined), second);
    assert_eq!(log.control.migration(&migration).unwrap().phase, Phase::Declined);
    // The destination lied and had it certified: the registry follows what verifiers certified, upwards only.
    let mut lied = log.clone();
    assert!(lied.activate(&first).result.is_ok());
    assert!(lied.activate(&second).result.is_ok());
    assert_eq!(lied.vm(&vm).generation, Generation(2));
    assert!(log.activate(&second).result.is_ok());
    let late = log.activate(&first).result.unwrap_err();
    assert_eq!((code(&late), late.winner.as_deref()), ((status::STALE, "FencedGeneration"), Some(&second)));
}

#[test]
fn test_refusal_before_the_grant_ends_the_migration_and_grants_nothing() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let evidence = AbortEvidence::Declined(log.refusal(vm, &migration, 1));
    let answer = log.submit(&host(1), Command::Abort { vm, migration, evidence }).result;
    assert_eq!(answer, Ok(Answer::Aborted { vm, migration }));
    assert!(log.vm(&vm).grants.is_empty());
    let forged = AbortEvidence::Declined(log.refusal(vm, &migration, 2));
    let failure = log.refused(&host(0), Command::Abort { vm, migration, evidence: forged });
    assert_eq!(failure.kind(), "KeyRoleMismatch");
}

#[test]
fn test_each_forged_relinquishment_is_refused() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let good = log.relinquish(vm, 5, 1);
    let cases: [(Relinquish, &str); 6] = [
        (good.clone().signed(&host(1)), "BadSignature"),
        (Relinquish { slot: Slot(6), ..good.clone() }, "BadSignature"),
        (Relinquish { generation: Generation(1), ..good.clone() }.signed(&host(0)), "FencedGeneration"),
        (Relinquish { successor: host(2).public(), ..good.clone() }.signed(&host(0)), "KeyRoleMismatch"),
        (Relinquish { epoch: Epoch(3), ..good.clone() }.signed(&host(0)), "EpochUnlinked"),
        (Relinquish { group: log.control.group(), ..good.clone() }.signed(&host(0)), "WrongCluster"),
    ];
    for (relinquish, kind) in cases {
        let failure = log.refused(&host(1), Command::Handover { migration, relinquish });
        assert_eq!(failure.kind(), kind, "{failure}");
    }
    let other = log.create(&operator(0), "other");
    let moved = Relinquish { vm: other, ..good.clone() }.signed(&host(0));
    let failure = log.refused(&host(1), Command::Handover { migration, relinquish: moved });
    assert_eq!(failure.kind(), "WrongVm");
    let failure = log.refused(&host(2), Command::Handover { migration, relinquish: good.clone() });
    assert_eq!(failure.kind(), "NotAuthorized");
    let none = Command::Handover { migration: OperationId::ZERO, relinquish: good };
    assert_eq!(log.refused(&host(1), none).code, status::NOT_FOUND);
}

#[test]
fn test_handover_behind_or_beside_the_newest_slot_is_refused() {
    let (mut log, vm) = Log::with_vm();
    let certificate = log.certificate(vm, 7);
    assert!(log.submit(&host(0), Command::Head { certificate }).result.is_ok());
    let migration = log.begin(vm, 1);
    let behind = Command::Handover { migration, relinquish: log.relinquish(vm, 6, 1) };
    assert_eq!(code(&log.refused(&host(1), behind)), (status::STALE, "Stale"));
    let mut beside = log.relinquish(vm, 7, 1);
    beside.statement = StatementDigest::ZERO;
    let relinquish = beside.signed(&host(0));
    assert_eq!(log.refused(&host(1), Command::Handover { migration, relinquish }).kind(), "WrongSlot");
    let at = Command::Handover { migration, relinquish: log.relinquish(vm, 7, 1) };
    assert_eq!(log.decided(&host(1), at).generation, Generation(1));
}

#[test]
fn test_repeated_handover_is_answered_with_the_same_grant() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let handover = Command::Handover { migration, relinquish: log.relinquish(vm, 5, 1) };
    let grant = log.decided(&host(1), handover.clone());
    assert_eq!(log.decided(&host(1), handover.clone()), grant);
    let otherwise = Command::Handover { migration, relinquish: log.relinquish(vm, 6, 1) };
    assert_eq!(log.refused(&host(1), otherwise).winner.as_deref(), Some(&grant));
    assert!(log.activate(&grant).result.is_ok());
    assert_eq!(log.decided(&host(1), handover), grant, "also after it was used");
}

#[test]
fn test_activation_needs_a_quorum_and_exactly_what_was_granted() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let relinquish = log.relinquish(vm, 5, 1);
    let grant = log.decided(&host(1), Command::Handover { migration, relinquish });
    let changed = |change: fn(&mut Decision)| {
        let mut other = grant.clone();
        change(&mut other);
        log.activation(&other)
    };
    let mut few = log.activation(&grant);
    few.attestations.pop();
    let mut forged = log.activation(&grant);
    forged.attestations[0].1 = forged.attestations[1].1;
    let elsewhere: fn(&mut Decision) = |other| {
        if let Action::Grant { host, .. } = &mut other.action {
            *host = crate::world::host(2).public();
        }
    };
    let cases = [
        (few, "QuorumNotReached"),
        (forged, "BadSignature"),
        (changed(|other| other.generation = Generation(9)), "Conflict"),
        (changed(|other| other.index = 99), "Inconsistent"),
        (changed(elsewhere), "KeyRoleMismatch"),
    ];
    for (certificate, kind) in cases {
        assert_eq!(log.refused(&operator(0), Command::Activate { certificate }).kind(), kind);
    }
}

#[test]
fn test_same_activation_again_is_harmless_and_another_of_that_generation_is_a_conflict() {
    let (mut log, vm) = Log::with_vm();
    let grant = log.migrate(vm, 5, 1);
    let before = log.control.commitment();
    assert!(log.activate(&grant).result.is_ok());
    assert_eq!(log.control.commitment(), before);
    let mut second = log.activation(&grant);
    second.activation.instance = Nonce::from_bytes([9; 16]);
    let statement = second.activation.clone();
    for (index, vote) in &mut second.attestations {
        *vote = statement.sign(&verifier_key(*index));
    }
    let failure = log.refused(&operator(0), Command::Activate { certificate: second });
    assert_eq!((failure.code, failure.winner.as_deref()), (status::CONFLICT, Some(&grant)));
}

#[test]
fn test_begin_waits_until_the_last_grant_is_used() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let back = AbortEvidence::Relinquished(log.relinquish(vm, 5, 0));
    let grant = log.decided(&host(0), Command::Abort { vm, migration, evidence: back });
    let begin = Command::Begin { vm, destination: host(2).public(), generation: Generation(2) };
    let failure = log.refused(&operator(0), begin.clone());
    assert!(failure.text.contains("is not active yet"), "{failure}");
    assert!(log.activate(&grant).result.is_ok());
    assert_eq!(log.decided(&operator(0), begin).generation, Generation(2));
}

#[test]
fn test_only_the_newest_ended_migrations_are_remembered() {
    let (mut log, vm) = Log::with_vm();
    let mut all = Vec::new();
    for _ in 0..FINISHED_LIMIT + 3 {
        let migration = log.begin(vm, 1);
        let abort = Command::Abort { vm, migration, evidence: AbortEvidence::NotStopped };
        assert!(log.submit(&operator(0), abort).result.is_ok());
        all.push(migration);
    }
    let known: Vec<bool> = all.iter().map(|id| log.control.migration(id).is_some()).collect();
    assert_eq!(known.iter().filter(|known| **known).count() as u64, FINISHED_LIMIT);
    assert_eq!(known[..4], [false, false, false, true]);
    // Places are used again, so the state stays as large as it is.
    assert_eq!(log.control.commitment().size, FINISHED_LIMIT + 4);
}
