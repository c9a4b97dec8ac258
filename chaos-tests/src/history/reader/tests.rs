use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
};

use super::super::Recorder;
use super::*;

/// A file in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn run() -> Run {
    Run {
        seed: 7,
        workload: "register".to_owned(),
        nemeses: ["kill".to_owned()].into(),
        voters: 3,
        seconds: 1,
    }
}

fn key() -> String {
    "k".to_owned()
}

fn recorded() -> (Memory, Recorder) {
    let memory = Memory::default();
    let recorder = Recorder::to(Box::new(memory.clone()), &run());
    (memory, recorder)
}

#[test]
fn what_was_recorded_is_read_back_in_pairs() {
    let (memory, recorder) = recorded();
    let write = Op::Write {
        key: key(),
        value: 1,
    };
    let one = recorder.invoke(1, write.clone());
    let two = recorder.invoke(2, Op::Read { key: key() });
    recorder.fault("kill", "replica a".to_owned(), false);
    recorder.fault("kill", "replica a".to_owned(), true);
    recorder.leader(1, 4);
    recorder.complete(two, Outcome::Ok, Answer::Value { value: 1 });
    recorder.complete(one, Outcome::Unknown, Answer::Nothing);
    recorder.sight(two, 9);
    recorder.peers(two, vec!["3".to_owned()], Vec::new());
    recorder.installed(1, 2);
    recorder.compared(None);
    recorder.finish().unwrap();

    let history = read_lines(memory.text().as_bytes()).unwrap();
    assert_eq!(history.run, run());
    let [first, second] = history.operations.as_slice() else {
        panic!("{history:?}");
    };
    assert_eq!((&first.op, first.process, first.end), (&write, 1, None));
    assert_eq!(second.answer, Answer::Value { value: 1 });
    assert!(second.end.is_some_and(|end| end >= second.call));
    let [fault] = history.faults.as_slice() else {
        panic!("{history:?}");
    };
    assert!(fault.until.is_some_and(|until| until >= fault.from));
    assert_eq!(fault.until, Some(history.healed_at));
    let [led] = history.leaders.as_slice() else {
        panic!("{history:?}");
    };
    assert_eq!((led.term, led.replica), (4, 1));
    assert_eq!(history.sightings.len(), 1);
    assert_eq!(history.peers[0].came, ["3"]);
    assert_eq!(history.snapshots[0].count, 2);
    assert_eq!(history.compared, Some(None));
    assert!(history.ended);
}

#[test]
fn an_operation_without_completion_is_unknown_and_a_torn_line_is_left_out() {
    let (memory, recorder) = recorded();
    let id = recorder.invoke(1, Op::List);
    recorder.complete(id, Outcome::Ok, Answer::Nothing);
    let text = memory.text();
    let torn = &text[..text.len() - 3];
    let history = read_lines(torn.as_bytes()).unwrap();
    assert_eq!(history.operations[0].outcome, Outcome::Unknown);
    assert_eq!(history.operations[0].end, None);
    assert!(!history.ended);
}

#[test]
fn lines_that_do_not_fit_are_named() {
    let (memory, recorder) = recorded();
    recorder.complete(17, Outcome::Ok, Answer::Nothing);
    let error = read_lines(memory.text().as_bytes()).unwrap_err();
    assert!(matches!(error, ReadError::Order { line: 2, .. }), "{error}");

    let error = read_lines(&b"{\"type\":\"end\",\"at\":1}\n"[..]).unwrap_err();
    assert!(matches!(error, ReadError::NoRun));

    let error = read_lines(&b"{\"type\":\"what\"}\n"[..]).unwrap_err();
    assert!(matches!(error, ReadError::Event { line: 1, .. }));

    let (memory, recorder) = recorded();
    recorder.finish().unwrap();
    recorder.invoke(1, Op::List);
    let error = read_lines(memory.text().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("after the end"), "{error}");
}
