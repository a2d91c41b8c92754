//! What running actions report to, so that a test knows from outside what has started, and where they wait until the
//! test lets them go on.
//!
//! An action connects, sends one line, `TAG ACTIVATION_ID`, and reads one. [`NODEJS`] and [`PYTHON`] do that.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Reports at `args.collector` under `args.tag`, waits until it may go on, and returns the tag.
pub const NODEJS: &str = r#"
const net = require('net')
function main(args) {
  return new Promise((resolve, reject) => {
    const [host, port] = args.collector.split(':')
    const socket = net.connect(Number(port), host, () => {
      socket.write(args.tag + ' ' + process.env.__OW_ACTIVATION_ID + '\n')
    })
    socket.on('data', () => { socket.destroy(); resolve({ tag: args.tag }) })
    socket.on('error', reject)
    socket.on('end', () => reject(new Error('the collector went away')))
  })
}
"#;

/// The same in Python.
pub const PYTHON: &str = r#"
import os, socket
def main(args):
    host, port = args["collector"].split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall((args["tag"] + " " + os.environ["__OW_ACTIVATION_ID"] + "\n").encode())
        if not connection.recv(1):
            raise RuntimeError("the collector went away")
    return {"tag": args["tag"]}
"#;

/// Listens until it is dropped with its last connection.
#[derive(Clone)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How often each activation reported, and its tag.
    starts: HashMap<String, (usize, String)>,
    /// Those that wait now.
    waiting: HashSet<String>,
    /// Tags whose activations wait until the tag is released.
    gated: HashSet<String>,
}

impl Collector {
    /// Takes reports at `listener`. Activations with one of the tags in `gated` wait for [`Collector::release`].
    ///
    /// # Panics
    /// If `listener` has no address.
    pub fn on(listener: TcpListener, gated: &[&str]) -> Self {
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared::default());
        shared.lock().gated = gated.iter().map(|&tag| tag.to_owned()).collect();
        let accepting = shared.clone();
        // It ends with the test program: what it holds is one socket.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                thread::spawn(move || shared.serve(&stream));
            }
        });
        Self { address, shared }
    }

    /// `HOST:PORT` for actions.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Activations that have started, with the number of reports of each.
    pub fn starts(&self) -> HashMap<String, usize> {
        self.shared.lock().starts.iter().map(|(id, (count, _))| (id.clone(), *count)).collect()
    }

    /// Activations under `tag` that have started.
    pub fn started(&self, tag: &str) -> HashSet<String> {
        self.shared.lock().starts.iter().filter(|(_, (_, of))| of == tag).map(|(id, _)| id.clone()).collect()
    }

    /// Activations that wait here now.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// Lets go those that wait under `tag`, and those to come.
    pub fn release(&self, tag: &str) {
        self.shared.lock().gated.remove(tag);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: &TcpStream) {
        let mut line = String::new();
        if BufReader::new(stream).read_line(&mut line).is_err() {
            return;
        }
        let Some((tag, id)) = line.trim_end().split_once(' ') else { return };
        let mut state = self.lock();
        state.starts.entry(id.to_owned()).or_insert_with(|| (0, tag.to_owned())).0 += 1;
        if state.gated.contains(tag) {
            state.waiting.insert(id.to_owned());
            while state.gated.contains(tag) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.waiting.remove(id);
        }
        drop(state);
        // It may be dead by now.
        let _ = stream.write_all(b"go\n");
    }
}
