//! Logs: where they go, how they look, and the transaction that ties the lines of one request together.
//!
//! Messages are constant text with fields. Parameters, results and keys are never logged.

use std::{fmt, io::IsTerminal};

use protocol::TransactionId;
use tokio::task::futures::TaskLocalFuture;
use tracing::{
    Event, Level, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{JsonFields, Writer},
    },
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Environment variable that chooses what is logged, such as `debug` or `info,node::containers=trace`.
pub const FILTER_VARIABLE: &str = "WHISP_LOG";
/// openraft tells of every election at `info`; on one node they mean nothing. actix calls it an error when a client sends
/// what is no HTTP.
const DEFAULT_FILTER: &str = "info,openraft=warn,actix_server=warn,actix_http::h1=off";

/// [`FILTER_VARIABLE`] holds no filter.
#[derive(Debug, thiserror::Error)]
#[error("{FILTER_VARIABLE}={value:?} is no log filter: {reason}")]
pub struct FilterError {
    value: String,
    reason: String,
}

/// Sends logs, panics among them, to stderr from now on. Once per process; a second call changes nothing.
///
/// # Errors
/// [`FilterError`].
pub fn init(format: LogFormat) -> Result<(), FilterError> {
    let filter = filter(std::env::var(FILTER_VARIABLE).ok())?;
    let lines = lines(format, std::io::stderr, std::io::stderr().is_terminal());
    let done = tracing_subscriber::registry().with(WithExtra(filter)).with(lines).try_init();
    if done.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!(%panic, %backtrace, "a thread panicked: please report this");
        }));
    }
    Ok(())
}

fn filter(value: Option<String>) -> Result<EnvFilter, FilterError> {
    let value = value.filter(|value| !value.trim().is_empty()).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    EnvFilter::try_new(&value).map_err(|error| FilterError { value, reason: error.to_string() })
}

/// What one request began.
#[derive(Debug, Clone)]
pub struct Transaction {
    pub id: TransactionId,
    /// `X-OW-EXTRA-LOGGING: on`: lines at `debug` are logged, too.
    pub extra_logging: bool,
}

tokio::task_local! {
    // Not a span: that is made, formatted and closed for every request, and hardly any request logs. Only a line that
    // is written looks at this, or one at `debug` that may be.
    static TRANSACTION: Option<Transaction>;
}

/// Log lines of `future` name `transaction`, those of tasks that it spawns only with [`in_this_transaction`].
pub fn in_transaction<F: Future>(transaction: Transaction, future: F) -> TaskLocalFuture<Option<Transaction>, F> {
    TRANSACTION.scope(Some(transaction), future)
}

/// For a task of its own that goes on with what its spawner does: its log lines name the same transaction.
pub fn in_this_transaction<F: Future>(future: F) -> TaskLocalFuture<Option<Transaction>, F> {
    TRANSACTION.scope(this_transaction(), future)
}

fn this_transaction() -> Option<Transaction> {
    // An error: nobody has set one.
    TRANSACTION.try_with(Clone::clone).ok().flatten()
}

/// A filter, beside which whatever this program says at `debug` of a transaction with extra logging is let through.
///
/// Source: apache/openwhisk `Logging.scala`, `debug`.
struct WithExtra(EnvFilter);

impl WithExtra {
    fn may_be_extra(metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::DEBUG && metadata.target().starts_with(OURS)
    }
}

/// Targets of this program.
const OURS: &str = "node::";

impl<S: Subscriber> Layer<S> for WithExtra {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let interest = Layer::<S>::register_callsite(&self.0, metadata);
        // To be asked each time.
        if interest.is_never() && Self::may_be_extra(metadata) { Interest::sometimes() } else { interest }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        let extra = || TRANSACTION.try_with(|this| this.as_ref().is_some_and(|this| this.extra_logging)) == Ok(true);
        Layer::<S>::enabled(&self.0, metadata, context) || (Self::may_be_extra(metadata) && extra())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0).map(|hint| hint.max(LevelFilter::DEBUG))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Layer::<S>::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Layer::<S>::on_close(&self.0, id, context);
    }
}

/// What writes the log's lines.
fn lines<S, W>(format: LogFormat, writer: W, colours: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let text = tracing_subscriber::fmt::format();
    match format {
        LogFormat::Text => {
            let text = text.with_ansi(colours);
            layer.with_ansi(colours).event_format(Lines { one: text, name: name_in_text }).boxed()
        }
        LogFormat::Json => {
            let json = text.json().flatten_event(true).with_span_list(false);
            layer.fmt_fields(JsonFields::new()).event_format(Lines { one: json, name: name_in_json }).boxed()
        }
    }
}

/// Lines as `one` writes them, and where there is a transaction, with its name at the end.
struct Lines<F> {
    one: F,
    /// The name as it follows the rest of a line. It is the caller's choice, so it is quoted.
    name: fn(&str, &TransactionId) -> String,
}

fn name_in_text(line: &str, transaction: &TransactionId) -> String {
    format!("{line} transid={:?}", transaction.0)
}

fn name_in_json(line: &str, transaction: &TransactionId) -> String {
    let object = line.strip_suffix('}').unwrap_or(line);
    format!("{object},\"transid\":{}}}", serde_json::Value::from(&*transaction.0))
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(transaction) = this_transaction() else {
            return self.one.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.one.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", (self.name)(line.trim_end_matches('\n'), &transaction.id))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn transaction(extra_logging: bool) -> Transaction {
        Transaction { id: TransactionId("t\"1".into()), extra_logging }
    }

    #[test]
    fn extra_logging_adds_what_is_said_at_debug_in_its_transaction_and_nowhere_else() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let filter = WithExtra(filter(None).unwrap());
        let subscriber =
            tracing_subscriber::registry().with(filter).with(lines(LogFormat::Text, move || writer.clone(), false));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let speak = |number: u8| async move {
            tracing::debug!(number, "at debug");
            tracing::trace!(number, "at trace");
            tracing::debug!(target: "openraft", number, "of another");
            tracing::info!(number, "at info");
        };
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(speak(1));
            runtime.block_on(in_transaction(transaction(false), speak(2)));
            runtime.block_on(in_transaction(transaction(true), async move {
                speak(3).await;
                tokio::spawn(in_this_transaction(speak(4))).await.unwrap();
            }));
            runtime.block_on(speak(5));
        });
        let text = String::from_utf8(buffer.0.lock().clone()).unwrap();
        let found: Vec<&str> =
            text.lines().filter_map(|line| line.split_once(" at ")?.1.split(" transid").next()).collect();
        assert_eq!(
            found,
            [
                "info number=1",
                "info number=2",
                "debug number=3",
                "info number=3",
                "debug number=4",
                "info number=4",
                "info number=5"
            ],
            "{text}"
        );
        assert!(!text.contains("of another"), "{text}");
    }

    /// Three lines: without a transaction, in one, and in a task that goes on with it.
    fn logged(format: LogFormat) -> Vec<String> {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, move || writer.clone(), false));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(in_this_transaction(async { tracing::info!("nobody asked") }));
            runtime.block_on(in_transaction(transaction(false), async {
                tracing::warn!(activation_id = "a1", "it failed");
                let beside = async { tracing::warn!("it failed beside") };
                tokio::spawn(in_this_transaction(beside)).await.unwrap();
            }));
        });
        String::from_utf8(buffer.0.lock().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_of_a_transaction_name_it_in_json() {
        let lines: Vec<serde_json::Value> =
            logged(LogFormat::Json).iter().map(|line| serde_json::from_str(line).expect(line)).collect();
        let [outside, inside, beside] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((&outside["message"], outside.get("transid")), (&"nobody asked".into(), None));
        assert_eq!((&inside["level"], &inside["message"]), (&"WARN".into(), &"it failed".into()));
        assert_eq!((&inside["activation_id"], &inside["transid"]), (&"a1".into(), &"t\"1".into()));
        assert_eq!((&beside["message"], &beside["transid"]), (&"it failed beside".into(), &"t\"1".into()));
    }

    #[test]
    fn lines_of_a_transaction_name_it_in_text() {
        let lines = logged(LogFormat::Text);
        let [outside, inside, beside] = &lines[..] else { panic!("{lines:?}") };
        assert!(outside.ends_with(" nobody asked"), "{outside}");
        assert!(inside.ends_with(r#" it failed activation_id="a1" transid="t\"1""#), "{inside}");
        assert!(beside.ends_with(r#" it failed beside transid="t\"1""#), "{beside}");
    }

    #[test]
    fn the_filter_is_the_variable_or_the_default() {
        assert_eq!(filter(None).unwrap().to_string().len(), DEFAULT_FILTER.len());
        assert_eq!(filter(Some(" ".into())).unwrap().to_string().len(), DEFAULT_FILTER.len());
        assert_eq!(filter(Some("debug".into())).unwrap().to_string(), "debug");
        let error = filter(Some("node=loudly".into())).unwrap_err().to_string();
        assert!(error.starts_with("WHISP_LOG=\"node=loudly\" is no log filter: "), "{error}");
    }
}
