use super::*;
use crate::nat_log::record::At;
use crate::nat_log::record::tests::{block, session};

/// A time of the day of these tests.
fn at(time: &str) -> Timestamp {
    crate::nat_log::record::tests::at(&format!("2026-11-22T{time}Z"))
}

/// What is asked of 192.168.44.129:41001, which 10.0.1.40:41000 has in these sessions.
fn question(from: &str, to: &str) -> Question {
    Question {
        address: "192.168.44.129".parse().unwrap(),
        port: 41_001,
        from: at(from),
        to: at(to),
        protocol: None,
        remote: None,
        remote_port: None,
    }
}

fn at_time(time: &str) -> Question {
    question(time, time)
}

fn begin(time: &str) -> Record {
    Record::Begin(Session { time: at(time), ..session("2026-11-22T00:00:00Z") })
}

fn end(time: &str) -> Record {
    Record::End(Session { time: at(time), ..session("2026-11-22T00:00:00Z") })
}

fn live(time: &str, began: &str) -> Record {
    let began = Some(at(began));
    Record::Live(Session { time: at(time), began, ..session("2026-11-22T00:00:00Z") })
}

fn gap(from: &str, to: &str) -> Gap {
    Gap { from: at(from), to: at(to), lost: None, why: Why::RouterRestarted }
}

fn mark(time: &str) -> Record {
    Record::Mark(At { time: at(time) })
}

fn complete(time: &str) -> Record {
    Record::Complete(At { time: at(time) })
}

/// Of a log that has all flows from its first record on.
fn answer(question: Question, records: &[Record]) -> Answer {
    let begin = records.first().map(|first| Record::Complete(At { time: first.time() }));
    let all: Vec<Record> = begin.into_iter().chain(records.iter().cloned()).collect();
    answer_of_part(question, &all)
}

/// Of a log that begins with any record.
fn answer_of_part(question: Question, records: &[Record]) -> Answer {
    let mut history = History::new(question);
    records.iter().for_each(|record| history.add(record));
    history.answer()
}

/// When those who had it did: from and to.
fn times(answer: &Answer) -> Vec<(Timestamp, Option<Timestamp>)> {
    answer.holders.iter().map(|holder| (holder.from, holder.to)).collect()
}

#[test]
fn whoever_had_it_at_that_time_is_told_and_nobody_else() {
    let records =
        [mark("10:00:00"), begin("11:00:00"), end("12:00:00"), begin("13:00:00"), mark("14:00:00")];
    let first = (at("11:00:00"), Some(at("12:00:00")));
    let second = (at("13:00:00"), None);
    for (asked, holders) in [
        (at_time("10:30:00"), vec![]),
        (at_time("11:00:00"), vec![first]),
        (at_time("11:59:59"), vec![first]),
        (at_time("12:00:00"), vec![first]),
        (at_time("12:30:00"), vec![]),
        (at_time("13:30:00"), vec![second]),
        (question("11:30:00", "13:30:00"), vec![first, second]),
    ] {
        let answer = answer(asked.clone(), &records);
        assert_eq!((times(&answer), answer.uncertain), (holders, None), "{asked:?}");
    }
}

#[test]
fn the_answer_is_about_one_address_port_protocol_and_remote() {
    let records = [mark("10:00:00"), begin("11:00:00"), mark("14:00:00")];
    let asked = at_time("12:00:00");
    let remote = |text: &str| Some(text.parse().unwrap());
    for (question, is_found) in [
        (Question { port: 41_000, ..asked.clone() }, false),
        (Question { address: "192.168.44.130".parse().unwrap(), ..asked.clone() }, false),
        (Question { protocol: Some("tcp".into()), ..asked.clone() }, true),
        (Question { protocol: Some("udp".into()), ..asked.clone() }, false),
        (
            Question { remote: remote("203.0.113.10"), remote_port: Some(443), ..asked.clone() },
            true,
        ),
        (
            Question { remote: remote("203.0.113.10"), remote_port: Some(80), ..asked.clone() },
            false,
        ),
        (Question { remote: remote("203.0.113.11"), ..asked }, false),
    ] {
        let holders = answer(question.clone(), &records).holders.len();
        assert_eq!(holders, usize::from(is_found), "{question:?}");
    }
}

#[test]
fn two_may_have_it_towards_different_remotes() {
    let other = Session {
        pod: None,
        pod_address: "10.0.1.41".parse().unwrap(),
        remote_port: 80,
        time: at("11:30:00"),
        ..session("2026-11-22T00:00:00Z")
    };
    let records = [begin("11:00:00"), Record::Begin(other), end("12:00:00"), mark("13:00:00")];
    let pods = |time| -> Vec<String> {
        let holders = answer(at_time(time), &records).holders;
        holders.iter().map(|holder| holder.pod_address.to_string()).collect()
    };
    assert_eq!(pods("11:45:00"), ["10.0.1.40", "10.0.1.41"]);
    assert_eq!(pods("12:45:00"), ["10.0.1.41"]);
}

#[test]
fn a_gap_is_told_and_what_is_there_after_it_goes_on() {
    let before = [mark("10:00:00"), begin("11:00:00"), Record::Gap(gap("12:00:00", "12:30:00"))];
    // It is still there.
    let live_again = [live("12:31:00", "11:00:01"), complete("12:31:00"), mark("14:00:00")];
    let goes_on = [&before[..], &live_again].concat();
    // It is not: nobody saw it end.
    let is_gone = [&before[..], &[complete("12:31:00"), mark("14:00:00")]].concat();
    let uncertain = Some(Uncertain::Gap(gap("12:00:00", "12:30:00")));
    let whole = (at("11:00:00"), None);
    let cut = (at("11:00:00"), Some(at("12:00:00")));
    for (records, time, holders, uncertain) in [
        (&goes_on, "11:30:00", vec![whole], None),
        (&goes_on, "12:15:00", vec![(at("11:00:01"), None)], uncertain.clone()),
        (&goes_on, "13:00:00", vec![(at("11:00:01"), None)], None),
        (&is_gone, "11:30:00", vec![cut], None),
        (&is_gone, "12:15:00", vec![], uncertain),
        (&is_gone, "13:00:00", vec![], None),
    ] {
        let answer = answer(at_time(time), records);
        assert_eq!((times(&answer), answer.uncertain), (holders, uncertain), "{time}");
    }
}

#[test]
fn nobody_is_not_said_before_all_flows_are_in_the_log() {
    let not_complete = |from, to| {
        let (from, to) = (at(from), at(to));
        Some(Uncertain::Gap(Gap { from, to, lost: None, why: Why::NotComplete }))
    };
    // One began before the log did, and lives.
    let records = [mark("10:00:00"), mark("11:00:00")];
    let answer = answer_of_part(at_time("10:30:00"), &records);
    assert_eq!(answer.uncertain, not_complete("10:00:00", "11:00:00"));
    // Whoever writes the log ended when it had not read all flows again after a gap.
    let cut = [complete("10:00:00"), Record::Gap(gap("11:00:00", "11:10:00")), mark("11:30:00")];
    for (time, uncertain) in [
        ("10:30:00", None),
        ("11:05:00", Some(Uncertain::Gap(gap("11:00:00", "11:10:00")))),
        ("11:20:00", not_complete("11:00:00", "11:30:00")),
    ] {
        let answer = answer_of_part(at_time(time), &cut);
        assert_eq!(answer.uncertain, uncertain, "{time}");
    }
    // There was another gap before, so that nobody knows who was there between them.
    let again = [&cut[..], &[Record::Gap(gap("11:40:00", "11:50:00")), complete("11:51:00")]];
    let answer = answer_of_part(at_time("11:20:00"), &again.concat());
    assert_eq!(answer.uncertain, not_complete("11:00:00", "11:50:00"));
    let answer = answer_of_part(at_time("11:50:30"), &again.concat());
    assert_eq!(answer.uncertain, None);
}

#[test]
fn a_clock_that_was_set_back_hides_nobody() {
    // A little, and by an hour.
    let records = [mark("10:00:00"), begin("11:00:01"), end("11:00:00"), mark("12:00:00")];
    let held = (at("11:00:01"), Some(at("11:00:01")));
    assert_eq!(times(&answer(at_time("11:00:01"), &records)), [held]);
    let back = Gap { why: Why::ClockSetBack, ..gap("11:05:00", "12:05:00") };
    let records = [
        mark("10:00:00"),
        begin("12:00:00"),
        Record::Gap(back.clone()),
        live("11:05:01", "11:00:01"),
        complete("11:05:01"),
        end("11:30:00"),
        mark("13:00:00"),
    ];
    let answer = answer(at_time("11:20:00"), &records);
    assert_eq!(times(&answer), [(at("11:00:01"), Some(at("11:30:00")))]);
    assert_eq!(answer.uncertain, Some(Uncertain::Gap(back)));
}

#[test]
fn what_the_log_does_not_reach_is_told() {
    let records = [mark("10:00:00"), mark("11:00:00")];
    for (time, uncertain) in [
        ("09:59:59", Some(Uncertain::Before(at("10:00:00")))),
        ("10:30:00", None),
        ("11:00:01", Some(Uncertain::After(at("11:00:00")))),
    ] {
        assert_eq!(answer(at_time(time), &records).uncertain, uncertain, "{time}");
    }
    assert_eq!(answer(at_time("10:00:00"), &[]).uncertain, Some(Uncertain::NoRecords));
}

#[test]
fn an_end_tells_a_begin_that_is_older_than_the_log() {
    let began = Some(at("08:00:00"));
    let Record::End(session) = end("11:00:00") else { unreachable!() };
    let records = [mark("10:00:00"), Record::End(Session { began, ..session }), mark("12:00:00")];
    let expected = vec![(at("08:00:00"), Some(at("11:00:00")))];
    assert_eq!(times(&answer(at_time("10:30:00"), &records)), expected);
    assert_eq!(times(&answer(at_time("09:00:00"), &records)), expected);
}

#[test]
fn the_router_goes_on_where_the_log_ends() {
    let mut history = History::new(at_time("12:00:00"));
    [begin("10:00:00"), mark("11:00:00")].iter().for_each(|record| history.add(record));
    // The router's oldest event is older than the log's last record: nothing is missing.
    history.goes_on_at(at("10:30:00"));
    history.add(&live("13:00:00", "10:00:00"));
    history.is_known_until(at("13:00:00"));
    let known = history.answer();
    assert_eq!((times(&known), known.uncertain), (vec![(at("10:00:00"), None)], None));

    let mut history = History::new(at_time("12:00:00"));
    let records = [complete("09:00:00"), begin("10:00:00"), mark("11:00:00")];
    records.iter().for_each(|record| history.add(record));
    history.goes_on_at(at("12:30:00"));
    history.is_known_until(at("13:00:00"));
    let known = history.answer();
    let Some(Uncertain::Gap(gap)) = known.uncertain else { panic!("{known:?}") };
    assert_eq!((gap.from, gap.to, gap.why), (at("11:00:00"), at("12:30:00"), Why::NotLogged));
    assert!(known.holders.is_empty());
}

#[test]
fn more_than_anybody_reads_are_cut_off_and_told() {
    let mut history = History::new(question("10:00:00", "12:00:00"));
    for second in 0..=HOLDERS_MAX as i64 {
        let time = at("10:00:00") + SignedDuration::from_millis(100 * second);
        let other = |record: Session| Session { time, ..record };
        history.add(&Record::Begin(other(session("2026-11-22T00:00:00Z"))));
        history.add(&Record::End(other(session("2026-11-22T00:00:00Z"))));
    }
    history.is_known_until(at("12:00:00"));
    assert_eq!(history.answer().uncertain, Some(Uncertain::TooMany));
}

#[test]
fn a_block_has_its_ports_of_every_protocol_towards_every_remote() {
    let of_block = |time: &str| Block { time: at(time), ..block("2026-11-22T00:00:00Z") };
    let records = [
        mark("10:00:00"),
        Record::BlockBegin(of_block("11:00:00")),
        Record::BlockEnd(of_block("12:00:00")),
        mark("13:00:00"),
    ];
    let ask = |port, time| {
        let remote = Some("203.0.113.99".parse().unwrap());
        let protocol = Some("udp".to_owned());
        answer(Question { port, protocol, remote, ..at_time(time) }, &records)
    };
    for port in [4_096, 4_100, 4_159] {
        let answer = ask(port, "11:30:00");
        assert_eq!(times(&answer), [(at("11:00:00"), Some(at("12:00:00")))]);
        let holder = &answer.holders[0];
        assert_eq!((&holder.session, holder.block), (&None, Some((4_096, 4_159))));
    }
    for (port, time) in [(4_095, "11:30:00"), (4_160, "11:30:00"), (4_100, "12:30:00")] {
        assert!(ask(port, time).holders.is_empty(), "{port} at {time}");
    }
    // One that was seen before and after a gap is one.
    let began = Some(at("11:00:00"));
    let live = |time| Record::BlockLive(Block { began, ..of_block(time) });
    let gap = Record::Gap(gap("11:10:00", "11:20:00"));
    let records = [live("11:05:00"), gap, live("11:20:00"), mark("13:00:00")];
    let answer = answer(Question { port: 4_100, ..at_time("12:00:00") }, &records);
    assert_eq!(times(&answer), [(at("11:00:00"), None)]);
}
