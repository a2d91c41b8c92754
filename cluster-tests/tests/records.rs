//! What becomes of functions that misbehave: for each, the exact record that OpenWhisk's users know, what the blocking
//! caller is told, and whether the container lives on.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use cluster_tests::{
    client::{ActionOptions, Api, annotation},
    node::{self, Options, TestNode, program},
};
use serde_json::{Value, json};

static SHARED: Mutex<Weak<TestNode>> = Mutex::new(Weak::new());

fn shared() -> Arc<TestNode> {
    node::shared(&SHARED, || TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options::default()))
}

const SUCCESS: &str = "success";
const APPLICATION: &str = "application error";
const DEVELOPER: &str = "action developer error";
const WARNING: &str = "stderr: The action did not initialize or run as expected. Log data might be missing.";
const EXITED: &str = "The action did not produce a valid response and exited unexpectedly.";

/// One function and what becomes of it. The rest of [`Case::default`] is that of a plain success.
struct Case {
    name: &'static str,
    code: &'static str,
    options: ActionOptions,
    status: &'static str,
    result: Expected,
    logs: Logs,
    timed_out: bool,
    /// Does the container run the next activation?
    reused: bool,
}

enum Expected {
    Is(Value),
    /// `{"error": text}` with exactly this text.
    Error(&'static str),
    /// The same, where only the beginning is ours to know.
    ErrorBegins(&'static str),
    /// An error object with this name and message, as Node.js describes a rejection.
    Rejection(&'static str),
}

enum Logs {
    /// Exactly these lines, without their times. Order across the two streams is that of arrival.
    Are(&'static [&'static str]),
    /// The first, any number of others, the last.
    Between(&'static str, &'static str),
    /// Up to the limit of 1 MB, then this line.
    Truncated,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            code: "",
            options: ActionOptions::default(),
            status: SUCCESS,
            result: Expected::Is(json!({})),
            logs: Logs::Are(&[]),
            timed_out: false,
            reused: true,
        }
    }
}

impl Case {
    fn new(name: &'static str, code: &'static str) -> Self {
        Self { name, code, ..Self::default() }
    }

    fn returns(mut self, result: Value) -> Self {
        self.result = Expected::Is(result);
        self
    }

    fn logs(mut self, logs: Logs) -> Self {
        self.logs = logs;
        self
    }

    /// Ends as the function's own error: the container lives on.
    fn refuses(mut self, result: Expected) -> Self {
        (self.status, self.result) = (APPLICATION, result);
        self
    }

    /// Ends as its developer's error: the container is gone.
    fn breaks(mut self, result: Expected) -> Self {
        (self.status, self.result, self.reused) = (DEVELOPER, result, false);
        if matches!(self.logs, Logs::Are([])) {
            self.logs = Logs::Are(&[WARNING]);
        }
        self
    }

    fn times_out(self, text: &'static str) -> Self {
        let mut case = self.breaks(Expected::Error(text)).limits(Some(700), None, None);
        case.timed_out = true;
        case
    }

    fn limits(mut self, timeout_ms: Option<u64>, memory_mb: Option<u64>, logs_mb: Option<u64>) -> Self {
        self.options = ActionOptions { timeout_ms, memory_mb, logs_mb, ..ActionOptions::default() };
        self
    }

    fn check(&self, api: &Api, kind_family: &str) {
        let name = format!("{kind_family}-{}", self.name);
        api.put_action(&name, &format!("{kind_family}:default"), self.code, self.options.clone());
        let kind = api.get(&format!("/actions/{name}")).expect(200)["exec"]["kind"].clone();
        let id = self.check_first(api, &name, &kind);
        let again = api.fire(&name, &json!({}));
        let again = api.record(&again, Duration::from_secs(30));
        assert_ne!(again["activationId"], id.as_str());
        assert_eq!(
            annotation(&again, "initTime").is_none(),
            self.reused,
            "{name}: is the container used again? {again}"
        );
        assert_eq!(again["response"]["status"], self.status, "{name}: the second time: {again}");
        api.delete(&format!("/actions/{name}")).expect(200);
    }

    /// Invokes it for the first time and looks at answer and record. Returns the activation's id.
    fn check_first(&self, api: &Api, name: &str, kind: &Value) -> String {
        let reply = api.invoke(name, &json!({}));
        let id = reply.headers["x-openwhisk-activation-id"].clone();
        assert_eq!(reply.status, if self.status == SUCCESS { 200 } else { 502 }, "{name}: {}", reply.text);
        let record = api.record(&id, Duration::from_secs(30));
        let answer = reply.json();
        if record["response"]["result"].is_array() {
            assert_eq!(answer, record["response"]["result"], "{name}: an array is answered bare");
        } else {
            let mut expected = record.clone();
            expected["logs"] = json!([]);
            assert_eq!(answer, expected, "{name}: the caller got another record than the stored one");
        }
        self.check_response(name, &record["response"]);
        self.check_logs(name, &record["logs"]);
        self.check_frame(name, &record, kind);
        assert_eq!(api.get(&format!("/activations/{id}/logs")).expect(200), json!({ "logs": record["logs"] }));
        assert_eq!(api.get(&format!("/activations/{id}/result")).expect(200), record["response"]);
        id
    }

    fn check_response(&self, name: &str, response: &Value) {
        assert_eq!(response["status"], self.status, "{name}: {response}");
        assert_eq!(response["success"], self.status == SUCCESS, "{name}");
        assert!(response.get("statusCode").is_none(), "{name}: the code is not shown here");
        let result = &response["result"];
        if self.status != SUCCESS {
            assert_eq!(result.as_object().map(|object| object.len()), Some(1), "{name}: only the error: {result}");
        }
        let error = result["error"].as_str().unwrap_or_default();
        match &self.result {
            Expected::Is(value) => assert_eq!(result, value, "{name}"),
            Expected::Error(text) => assert_eq!(error, *text, "{name}: {result}"),
            Expected::ErrorBegins(text) => assert!(error.starts_with(text), "{name}: {:.300}", result.to_string()),
            Expected::Rejection(message) => {
                assert_eq!(result["error"]["name"], "Error", "{name}");
                assert_eq!(result["error"]["message"], *message, "{name}");
                assert!(result["error"]["stack"].as_str().is_some_and(|stack| stack.contains(message)), "{name}");
            }
        }
    }

    fn check_logs(&self, name: &str, logs: &Value) {
        let lines: Vec<String> =
            logs.as_array().expect("logs are a list").iter().map(|line| without_time(line)).collect();
        match self.logs {
            Logs::Are(expected) => {
                let (mut expected, mut lines) = (expected.to_vec(), lines);
                if expected.last() == Some(&WARNING) {
                    assert_eq!(lines.last().map(String::as_str), Some(WARNING), "{name}: {lines:?}");
                }
                expected.sort_unstable();
                lines.sort_unstable();
                assert_eq!(lines, expected, "{name}");
            }
            Logs::Between(first, last) => {
                assert!(lines.first().is_some_and(|line| line.starts_with(first)), "{name}: {lines:?}");
                assert_eq!(lines.last().map(String::as_str), Some(last), "{name}: {lines:?}");
            }
            Logs::Truncated => {
                let (last, kept) = lines.split_last().expect("there are logs");
                assert_eq!(
                    last,
                    "stderr: Logs were truncated because the total bytes size exceeds the limit of 1048576 bytes.",
                    "{name}"
                );
                assert!(kept.iter().all(|line| line.starts_with("stdout: flood ")), "{name}");
                // Docker's JSON around each line counts, and the line that crosses the limit is dropped whole.
                // 47 bytes with the line end, 61 to 71 of JSON and time, and one more.
                let (most, least) = ((1 << 20) / 109, (1 << 20) / 119);
                assert!((least..=most).contains(&kept.len()), "{name}: {} lines are kept", kept.len());
            }
        }
    }

    /// Everything of the record that is not its outcome.
    fn check_frame(&self, name: &str, record: &Value, kind: &Value) {
        let fields: Vec<&str> = record.as_object().expect("a record is an object").keys().map(String::as_str).collect();
        let mut expected = vec![
            "activationId",
            "annotations",
            "duration",
            "end",
            "logs",
            "name",
            "namespace",
            "publish",
            "response",
            "start",
            "subject",
            "version",
        ];
        let mut fields = fields;
        fields.sort_unstable();
        expected.sort_unstable();
        assert_eq!(fields, expected, "{name}");
        for (key, value) in [("namespace", "tester"), ("subject", "tester"), ("name", name), ("version", "0.0.1")] {
            assert_eq!(record[key], value, "{name}: {key}");
        }
        assert_eq!(record["publish"], false);
        let number = |key: &str| record[key].as_u64().unwrap_or_else(|| panic!("{name}: {key}: {}", record[key]));
        assert_eq!(number("end") - number("start"), number("duration"), "{name}");
        let limit = self.options.timeout_ms.unwrap_or(60_000);
        if self.timed_out {
            assert!(number("duration") >= limit, "{name}: {record}");
        }
        let of = |key| annotation(record, key);
        assert_eq!(of("path"), Some(&json!(format!("tester/{name}"))), "{name}");
        assert_eq!(of("kind"), Some(kind), "{name}");
        assert_eq!(of("timeout"), Some(&json!(self.timed_out)), "{name}");
        assert_eq!(
            of("limits"),
            Some(&json!({
                "timeout": limit,
                "memory": self.options.memory_mb.unwrap_or(256),
                "logs": self.options.logs_mb.unwrap_or(10),
                "concurrency": 1,
            })),
            "{name}"
        );
        assert!(of("waitTime").is_some_and(Value::is_u64), "{name}: {record}");
        let init = of("initTime").and_then(Value::as_u64).unwrap_or_else(|| panic!("{name}: /init ran: {record}"));
        assert!(init <= number("duration"), "{name}: {record}");
        let count = record["annotations"].as_array().map(Vec::len);
        assert_eq!(count, Some(6), "{name}: {record}");
    }
}

/// A line without its time, which must be one: `2019-10-01T12:00:00.123456789Z stdout: text`.
#[track_caller]
fn without_time(line: &Value) -> String {
    let line = line.as_str().expect("lines are text");
    let (time, rest) = line.split_at_checked(30).unwrap_or_else(|| panic!("no time in {line:?}"));
    let digits = time.bytes().filter(u8::is_ascii_digit).count();
    assert!(time.trim_end().ends_with('Z') && time.as_bytes()[10] == b'T' && digits >= 15, "no time in {line:?}");
    rest.strip_prefix(' ').unwrap_or_else(|| panic!("no blank after the time in {line:?}")).to_owned()
}

#[test]
fn nodejs_functions_end_in_the_records_of_the_reference() {
    let node = shared();
    let api = node.api();
    use Expected::{Error, ErrorBegins, Rejection};
    let cases = [
        Case::new(
            "async",
            "const main = async () => {
               await new Promise(go => setTimeout(go, 20)); console.log('to stdout'); console.error('to stderr: ä')
               return { done: true } }",
        )
        .returns(json!({ "done": true }))
        .logs(Logs::Are(&["stdout: to stdout", "stderr: to stderr: ä"])),
        Case::new("undefined", "const main = () => undefined"),
        Case::new("array", "const main = () => [1, { two: 2 }]").returns(json!([1, { "two": 2 }])),
        Case::new("error", "const main = () => ({ error: 'no', other: 1 })").refuses(Error("no")),
        Case::new("reject", "const main = async () => { throw new Error('refused') }").refuses(Rejection("refused")),
        Case::new("large", "const main = () => ({ text: 'x'.repeat(1 << 20) })").refuses(ErrorBegins(
            "The action produced a response that exceeded the allowed length: 1048587 > 1048576 bytes. The truncated response was: {\"text\":\"xxx",
        )),
        Case::new("throw", "function main () { throw new Error('broken') }")
            .logs(Logs::Between("stderr: Error: broken", WARNING))
            .breaks(Error("An error has occurred: Error: broken")),
        Case::new("scalar", "const main = () => 42")
            .logs(Logs::Are(&["stderr: Result must be of type object but has type \"number\": 42", WARNING]))
            .breaks(Error("The action did not return a dictionary.")),
        Case::new("null", "const main = () => null")
            .breaks(Error("The action did not produce a valid JSON or JSON Array response: null")),
        Case::new("hang", "const main = () => new Promise(() => setInterval(() => {}, 1000))")
            .times_out("The action exceeded its time limits of 700 milliseconds."),
        Case::new("spin", "const main = () => { for (;;); }")
            .times_out("The action exceeded its time limits of 700 milliseconds."),
        Case::new("spin-at-init", "for (;;); const main = () => ({})")
            .times_out("The action exceeded its time limits of 700 milliseconds during initialization."),
        Case::new("exit", "const main = () => { console.log('last words'); process.exit(0) }")
            .logs(Logs::Are(&["stdout: last words", WARNING]))
            .breaks(Error(EXITED)),
        Case::new("exit-at-init", "process.exit(3)")
            .breaks(Error("The action did not initialize and exited unexpectedly.")),
        Case::new("memory", "const main = () => { for (const all = [];;) all.push(Buffer.alloc(8 << 20, 1)) }")
            .breaks(Error("The action exhausted its memory and was aborted."))
            .limits(None, Some(128), None),
        Case::new("syntax", "const main = () => {")
            .logs(Logs::Between("stderr: Error during initialization: SyntaxError", WARNING))
            .breaks(ErrorBegins("Initialization has failed due to: SyntaxError")),
        Case::new("no-main", "const other = 1")
            .logs(Logs::Are(&[
                "stderr: Error during initialization: Action entrypoint 'main' is not a function.",
                WARNING,
            ]))
            .breaks(Error("Initialization has failed due to: Action entrypoint 'main' is not a function.")),
        Case { reused: false, ..Case::new("flood", "const main = () => { for (let i = 0; i < 60000; i++) console.log('flood ' + 'x'.repeat(40)); return {} }") }
            .limits(None, None, Some(1))
            .logs(Logs::Truncated),
        Case::new("quiet", "const main = () => { console.log('unheard'); return {} }").limits(None, None, Some(0)),
    ];
    for case in &cases {
        case.check(&api, "nodejs");
    }
}

#[test]
fn python_functions_end_in_the_records_of_the_reference() {
    let node = shared();
    let api = node.api();
    use Expected::Error;
    let cases = [
        Case::new(
            "prints",
            "import sys\ndef main(args):\n  print('to stdout: ä')\n  print('to stderr', file=sys.stderr)\n  return {'done': True}",
        )
        .returns(json!({ "done": true }))
        .logs(Logs::Are(&["stdout: to stdout: ä", "stderr: to stderr"])),
        Case::new("array", "def main(args):\n  return [1, {'two': 2}]").returns(json!([1, { "two": 2 }])),
        Case::new("error", "def main(args):\n  return {'error': 'no', 'other': 1}").refuses(Error("no")),
        Case::new("raise", "def main(args):\n  raise ValueError('refused')")
            .logs(Logs::Between("stderr: Traceback", "stderr: "))
            .refuses(Error("refused")),
        Case::new("none", "def main(args):\n  return None")
            .breaks(Error("The action did not produce a valid JSON or JSON Array response: null\n")),
        Case::new("scalar", "def main(args):\n  return 42")
            .breaks(Error("The action did not return a dictionary or array.")),
        Case::new("not-json", "def main(args):\n  return {'set': {1, 2}}")
            .logs(Logs::Between("stderr: Traceback", WARNING))
            .breaks(Error("command exited")),
        Case::new("exit", "import sys\ndef main(args):\n  print('last words')\n  sys.exit(0)")
            .logs(Logs::Are(&["stdout: last words", WARNING]))
            .breaks(Error("command exited")),
        Case::new("hard-exit", "import os\ndef main(args):\n  print('last words', flush=True)\n  os._exit(0)")
            .logs(Logs::Are(&["stdout: last words", WARNING]))
            .breaks(Error("command exited")),
        Case::new("segfault", "import os, signal\ndef main(args):\n  os.kill(os.getpid(), signal.SIGSEGV)")
            .logs(Logs::Are(&[WARNING]))
            .breaks(Error("command exited")),
        Case::new("hard-exit-at-init", "import os; os._exit(0)")
            .logs(Logs::Are(&["stderr: Command exited abruptly during initialization.", WARNING]))
            .breaks(Error("Cannot start action. Check logs for details.")),
        Case::new("hang", "import time\ndef main(args):\n  time.sleep(600)")
            .times_out("The action exceeded its time limits of 700 milliseconds."),
        Case::new("spin-at-init", "while True: pass")
            .times_out("The action exceeded its time limits of 700 milliseconds during initialization."),
        Case::new("memory", "def main(args):\n  all = []\n  while True: all.append(bytearray(b'x') * (8 << 20))")
            .breaks(Error("The action exhausted its memory and was aborted."))
            .limits(None, Some(128), None),
        Case::new("syntax", "def main(args:\n  return {}")
            .logs(Logs::Between("stderr: ", WARNING))
            .breaks(Error("The action failed to generate or locate a binary. See logs for details.")),
        Case::new("import", "import nothing_of_that_name\ndef main(args):\n  return {}")
            .logs(Logs::Between("stderr: Traceback", WARNING))
            .breaks(Error("Cannot start action. Check logs for details.")),
        Case { reused: false, ..Case::new("flood", "def main(args):\n  for _ in range(60000): print('flood ' + 'x' * 40)\n  return {}") }
            .limits(None, None, Some(1))
            .logs(Logs::Truncated),
    ];
    for case in &cases {
        case.check(&api, "python");
    }
}

#[test]
fn an_array_or_a_result_alone_is_answered_as_such() {
    let node = shared();
    let api = node.api();
    api.put_action(
        "either",
        "nodejs:default",
        "const main = ({ fail }) => fail ? { error: { why: fail } } : { fine: 1 }",
        ActionOptions::default(),
    );
    let url = "/actions/either?blocking=true&result=true";
    assert_eq!(api.post(url, &json!({})).expect(200), json!({ "fine": 1 }));
    assert_eq!(api.post(url, &json!({ "fail": "x" })).expect(502), json!({ "error": { "why": "x" } }));
    let late = "const main = () => new Promise(go => setTimeout(() => go({ late: true }), 1500))";
    api.put_action("late", "nodejs:default", late, ActionOptions::default());
    let reply = api.post("/actions/late?blocking=true&timeout=500", &json!({}));
    assert_eq!(reply.status, 202, "{}", reply.text);
    assert_eq!(reply.headers["x-openwhisk-activation-id"], reply.activation_id());
    let record = api.record(&reply.activation_id(), Duration::from_secs(30));
    assert_eq!(record["response"]["result"], json!({ "late": true }), "the work went on: {record}");
}
