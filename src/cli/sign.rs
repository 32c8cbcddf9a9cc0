//! Signs an order, for any MQTT client to send: `neap sign`.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::failure::{Class, Failure};
use super::out::Out;
use super::signer::{Address, Signer};
use super::span::{self, Span};
use crate::trust::order::{Message, PROPERTY};
use crate::units::{Name, PACKET_BYTES_MAX};

/// How long an order counts unless the person says otherwise.
const LIFE: Duration = Duration::from_secs(3600);

/// Arguments of `neap sign`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap sign --key ctl.key --topic neap/v1/north/cell-17/down/job/night-7 job.json
  mosquitto_pub -V 5 -q 1 -t neap/v1/north/cell-17/down/job/night-7 -f job.json \\
    -D publish user-property neap-authorization \\
    \"$(neap sign --key ctl.key --topic neap/v1/north/cell-17/down/job/night-7 job.json)\"
  neap sign --key ctl.key --topic neap/v1/north/cell-17/down/job/night-7/cancel      an order without a body

The value printed goes into the user property neap-authorization of the message. It binds the topic, the body, the
content type, the header length and the response topic: send the message exactly as it was signed.")]
pub(super) struct Args {
    /// Body of the message, - for standard input [default: empty]
    #[arg(value_name = "FILE")]
    body: Option<PathBuf>,
    /// Private key, as neap key new makes it
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// In whose name [default: as the key file says]
    #[arg(long, value_name = "NAME")]
    issuer: Option<Name>,
    /// Topic that the message will be sent to
    #[arg(long)]
    topic: String,
    /// The order counts for so long: a job's at most 7d, others at most 1h [default: 1h]
    #[arg(long = "for", value_name = "TIME", value_parser = span::positive)]
    life: Option<Span>,
    /// Content type that the message will be sent with
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Value of inference-header-content-length that the message will be sent with
    #[arg(long, value_name = "BYTES")]
    header_bytes: Option<u64>,
    /// Response topic that the message will be sent with
    #[arg(long, value_name = "TOPIC")]
    reply: Option<String>,
    /// One JSON object with the property's name and value
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Some(address) = Address::of_topic(&args.topic) else {
        let text = format!(
            "{:?} is no topic of an order, such as neap/v1/SITE/NODE/down/job/ID, …/cancel, …/down/cmd/NAME or \
             neap/v1/SITE/fleet/down/hold",
            args.topic
        );
        return Err(Failure::new(Class::Usage, text));
    };
    let (life, life_max) = (args.life.map_or(LIFE, |Span(life)| life), address.life_max());
    if life > life_max {
        let (given, max) = (life.as_secs(), life_max.as_secs());
        return Err(Failure::new(Class::Usage, format!("--for: {given} s; {} may count for {max} s", address.order)));
    }
    let signer = Signer::open(&args.key, args.issuer.as_ref())?;
    let body = body(args)?;
    let header = args.header_bytes.map(|bytes| bytes.to_string());
    let message = Message {
        site: address.site,
        node: address.node,
        order: address.order,
        id: address.id,
        body: &body,
        content_type: args.content_type.as_deref(),
        header: header.as_deref(),
        reply: args.reply.as_deref(),
    };
    let value = signer.envelope(&message, life);
    let out = Out::stdout();
    if args.json { out.json(&json!({"property": PROPERTY, "value": value})) } else { out.line(&value) }
}

fn body(args: &Args) -> Result<Vec<u8>, Failure> {
    let Some(path) = &args.body else { return Ok(Vec::new()) };
    let io = |error: std::io::Error| Failure::io(&format!("cannot read {}", path.display()), &error);
    let source: Box<dyn std::io::Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(io)?)
    };
    let mut body = Vec::new();
    source.take(PACKET_BYTES_MAX as u64 + 1).read_to_end(&mut body).map_err(io)?;
    if body.len() > PACKET_BYTES_MAX {
        let text =
            format!("{} has more than {PACKET_BYTES_MAX} bytes, the most that a message may have", path.display());
        return Err(Failure::new(Class::Data, text));
    }
    Ok(body)
}
