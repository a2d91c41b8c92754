//! What a node answers, and what every answer must be.

use std::collections::HashMap;

use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// All answers on a connection.
///
/// # Errors
/// What of it is no HTTP, or not whole.
pub fn parse(mut bytes: &[u8]) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .ok_or_else(|| format!("half a head: {}", text()))?;
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| format!("not UTF-8: {}", text()))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status: u16 = status.ok_or_else(|| format!("no status line: {}", text()))?;
        let header =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        let headers: HashMap<String, String> = lines.filter_map(header).collect();
        let rest = &bytes[end + 4..];
        if status == 100 {
            bytes = rest;
            continue;
        }
        let (body, used) = if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
            chunks(rest).ok_or_else(|| format!("broken chunks: {}", text()))?
        } else {
            let length = headers.get("content-length").and_then(|length| length.parse().ok());
            let length: usize = length.ok_or_else(|| format!("no length: {}", text()))?;
            let body = rest.get(..length).ok_or_else(|| format!("half a body: {}", text()))?;
            (body.to_vec(), length)
        };
        let body = String::from_utf8(body).map_err(|_| format!("not UTF-8: {}", text()))?;
        answers.push(Answer { status, headers, body });
        bytes = &rest[used..];
    }
    Ok(answers)
}

/// The body, and how many bytes it took with its marks.
fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).ok()?, 16).ok()?;
        at += line + 2;
        body.extend(bytes.get(at..at + length)?);
        at += length + 2;
        if length == 0 {
            return Some((body, at));
        }
    }
}

/// Why the node may be unable to serve a request that it would serve at another time.
const REASONS: [&str; 5] = [
    "System is overloaded, try again later.",
    "The server has no memory for large requests now: too many came at once.",
    "The body of the request took too long to arrive.",
    // What must be on disk first was not in time, on a machine that does much else.
    "is still running, not yet recorded.",
    "The server is currently unavailable (because it is overloaded or down for maintenance).",
];

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// True if the node closes the connection behind it.
    pub fn is_last(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// What holds for every answer.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {self:?}"));
        let Some(request_id) = self.header("x-request-id") else { return wrong("no X-Request-ID") };
        let is_json = self.header("content-type") == Some("application/json");
        let json: Option<Value> = serde_json::from_str(&self.body).ok();
        // Deeper than a value can be is JSON too.
        if is_json && json.is_none() && serde_json::from_str::<&serde_json::value::RawValue>(&self.body).is_err() {
            return wrong("no JSON");
        }
        let of_activation = self.header("x-openwhisk-activation-id").is_some();
        match self.status {
            200 => return Ok(()),
            202 if of_activation => return Ok(()),
            // What the action did is the action's fault, and says so.
            502 if of_activation => {
                let json = json.unwrap_or_default();
                let status = json["response"]["status"].as_str();
                let failed = matches!(status, Some("application error" | "action developer error"));
                return if failed || json.get("error").is_some() { Ok(()) } else { wrong("502 for no reason") };
            }
            503 => {
                let text = json.as_ref().and_then(|json| json["error"].as_str()).unwrap_or_default();
                if !REASONS.iter().any(|reason| text.ends_with(reason)) {
                    return wrong("503 for no known reason");
                }
            }
            400..500 => {}
            _ => return wrong("a status that nothing explains"),
        }
        let json = json.unwrap_or_default();
        let members = json.as_object().map_or(0, serde_json::Map::len);
        if !is_json || members != 2 || json["code"] != request_id || json["error"].as_str().is_none_or(str::is_empty) {
            return wrong("not the form of a refusal");
        }
        Ok(())
    }
}
