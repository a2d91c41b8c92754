//! The action proxy of a compiled image: its programs are built in, and the code in `/init` names one.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::exit,
    thread::sleep,
    time::Duration,
};

use serde_json::{Map, Value, json};

const SENTINEL: &str = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX";

fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    let mut action = Action::default();
    for connection in listener.incoming() {
        serve(connection?, &mut action)?;
    }
    Ok(())
}

#[derive(Default)]
struct Action {
    program: Option<String>,
    env: Map<String, Value>,
}

fn serve(mut connection: TcpStream, action: &mut Action) -> Result<(), Box<dyn Error>> {
    let mut reader = BufReader::new(connection.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim().to_lowercase().strip_prefix("content-length:") {
                Some(text) => length = text.trim().parse()?,
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body)?;
        let (status, answer) = match request.contains(" /init ") {
            true => action.init(&body["value"]),
            false => action.run(body),
        };
        let answer = answer.to_string();
        write!(connection, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())?;
    }
}

impl Action {
    fn init(&mut self, value: &Value) -> (u16, Value) {
        if self.program.is_some() {
            let error = "Cannot initialize the action more than once.";
            eprintln!("{error}");
            return (403, json!({ "error": error }));
        }
        let program = value["code"].as_str().unwrap_or_default();
        match program {
            "" => return (403, json!({"error": "Missing main/no code to execute."})),
            "HangInInit" => sleep(Duration::MAX),
            "ExitInInit" => exit(3),
            _ => {}
        }
        self.program = Some(program.to_owned());
        self.env = value["env"].as_object().cloned().unwrap_or_default();
        (200, json!({"ok": true}))
    }

    fn run(&mut self, mut body: Value) -> (u16, Value) {
        let Some(program) = &self.program else { return (500, json!({"error": "no action defined yet"})) };
        let value = body["value"].take();
        for (name, text) in body.as_object().into_iter().flatten() {
            self.env.insert(format!("__OW_{}", name.to_uppercase()), text.clone());
        }
        let result = match program.as_str() {
            "Echo" => {
                println!("hello stdout");
                eprintln!("hello stderr");
                value
            }
            "Repeat" => json!({"text": "x".repeat(value["n"].as_u64().unwrap_or(0) as usize)}),
            "Scalar" => json!(5),
            "ApplicationError" => json!({"error": "planned", "other": 1}),
            "Exit" if value.get("exit").is_some() => exit(3),
            "Hang" if value.get("hang").is_some() => loop {
                sleep(Duration::from_secs(1));
            },
            "ExhaustMemory" => {
                let mut taken = Vec::new();
                loop {
                    taken.push(vec![1u8; 1 << 20]);
                }
            }
            "Flood" => {
                let line = "y".repeat(100);
                (0..value["lines"].as_u64().unwrap_or(0)).for_each(|_| println!("{line}"));
                json!({})
            }
            "Environment" => {
                let variable = |name: &Value| {
                    let name = name.as_str().unwrap_or_default();
                    let own = || std::env::var(name).map_or(Value::Null, Value::from);
                    (name.to_owned(), self.env.get(name).cloned().unwrap_or_else(own))
                };
                value["names"].as_array().into_iter().flatten().map(variable).collect()
            }
            _ => value,
        };
        println!("{SENTINEL}");
        eprintln!("{SENTINEL}");
        match result {
            Value::Object(_) | Value::Array(_) => (200, result),
            _ => (502, json!({"error": "The action did not return a dictionary or array."})),
        }
    }
}
