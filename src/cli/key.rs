//! Makes keys, and key rings for nodes: `neap key`.

mod ring;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ::ring::rand::{SecureRandom as _, SystemRandom};
use clap::Subcommand;
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::{Class, Failure};
use super::out::Out;
use super::signer::read_private;
use crate::fault::Fault;
use crate::trust::key::{KEY_FILE_BYTES_MAX, PrivateKey, PublicKey, Role, SEED_BYTES, label};
use crate::trust::publisher::SigningKey;
use crate::units::Name;

/// Arguments of `neap key`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap key new --role controller --owner ctl-a --out ctl.key     a private key, and ctl.key.pub for the nodes
  neap key ring add --ring keys.json ctl.key.pub --nodes 'north/*'
  neap key ring list --ring keys.json
  neap submit --sign-with ctl.key --node north/cell-17 --model objects --input picture.jpg

A node with [trust] keys = \"/etc/neap/keys.json\" carries out only what a key of that ring has signed.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a private key, and beside it the public one.
    New(New),
    /// Shows a key.
    Show(Show),
    /// Changes and shows the key ring of nodes.
    Ring(ring::Args),
}

/// Arguments of `neap key new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap key new --role controller --owner ctl-a --out ctl.key
  neap key new --role publisher --owner models-team --out publisher.key

The private key gets mode 600; a file that is there is never written over. The public one is FILE.pub.")]
struct New {
    /// What it will sign: controller (orders) or publisher (models)
    #[arg(long)]
    role: Role,
    /// Whose it is: the issuer of a controller's orders
    #[arg(long, visible_alias = "issuer", value_name = "NAME")]
    owner: Name,
    /// File of the private key
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `neap key show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap key show ctl.key
  neap key show --public ctl.key > ctl.key.pub

Of a private key only the public half is ever shown.")]
struct Show {
    /// Private or public key
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The public key as a PEM file
    #[arg(long, conflicts_with = "json")]
    public: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::New(new) => make(new),
        Command::Show(args) => show(args),
        Command::Ring(args) => ring::run(args),
    }
}

fn make(args: &New) -> Result<(), Failure> {
    let (secret, key) = generate(args.role)?;
    let head = format!("owner: {}\nrole: {}\n", args.owner, args.role);
    let mut public = args.out.clone().into_os_string();
    public.push(".pub");
    let public = PathBuf::from(public);
    create(&args.out, 0o600, &format!("{head}{}", *secret))?;
    create(&public, 0o644, &format!("{head}{}", key.to_pem()))?;
    let (id, out) = (key.id().to_string(), Out::stdout());
    if args.json {
        return out.json(&json!({"id": id, "private": args.out, "public": public}));
    }
    out.line(&format!("{id} {} {}: {} and {}", args.role, args.owner, args.out.display(), public.display()))
}

/// The PEM file of a new private key, and its public half: Ed25519 for orders, and for models what the OpenSSF signing
/// format knows, ECDSA on P-256.
fn generate(role: Role) -> Result<(Zeroizing<String>, PublicKey), Failure> {
    let random = SystemRandom::new();
    match role {
        Role::Controller => {
            let mut seed = Zeroizing::new([0; SEED_BYTES]);
            let filled = random.fill(&mut *seed);
            filled.map_err(|_| Failure::new(Class::Software, "the system gives no random bytes"))?;
            let key = PrivateKey::from_seed(&seed);
            Ok((Zeroizing::new(key.to_pem().clone()), key.public()))
        }
        Role::Publisher => {
            let (key, secret) = SigningKey::generate(&random)?;
            Ok((Zeroizing::new(secret), key.public().clone()))
        }
    }
}

fn show(args: &Show) -> Result<(), Failure> {
    let (text, key) = read_public(&args.file)?;
    let (owner, role) = (label(&text, "owner").unwrap_or("-"), label(&text, "role").unwrap_or("-"));
    let (id, algorithm, out) = (key.id().to_string(), key.algorithm().as_str(), Out::stdout());
    if args.json {
        return out
            .json(&json!({"id": id, "algorithm": algorithm, "owner": owner, "role": role, "public": key.to_pem()}));
    }
    if args.public {
        return out.line(format!("owner: {owner}\nrole: {role}\n{}", key.to_pem()).trim_end());
    }
    out.line(&format!("{id} {algorithm} {role} {owner}"))
}

/// The public half of a key file, private or public, and the file's text.
fn read_public(path: &Path) -> Result<(String, PublicKey), Failure> {
    let shown = path.display();
    let found = fs::metadata(path).map_err(|error| Failure::io(&format!("cannot read {shown}"), &error))?;
    if found.len() > KEY_FILE_BYTES_MAX as u64 {
        return Err(Failure::new(Class::Data, format!("{shown} has {} bytes; is it a key?", found.len())));
    }
    let text = fs::read_to_string(path).map_err(|error| Failure::io(&format!("cannot read {shown}"), &error))?;
    let named = |fault| Failure::new(Class::Data, format!("{shown}: {fault}"));
    let key = match text.contains("PRIVATE KEY") {
        true => public_half(&read_private(path)?).map_err(named)?,
        false => PublicKey::from_pem(&text).map_err(named)?,
    };
    Ok((text, key))
}

fn public_half(private: &str) -> Result<PublicKey, Fault> {
    match SigningKey::from_pem(private, &SystemRandom::new()) {
        Ok(publisher) => Ok(publisher.public().clone()),
        Err(_) => Ok(PrivateKey::from_pem(private)?.public()),
    }
}

/// Writes a file that must not be there yet.
fn create(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            let text =
                format!("{} is there already, and a key is never written over; give another --out", path.display());
            return Failure::new(Class::Io, text);
        }
        Failure::io(&format!("cannot write {}", path.display()), &error)
    })
}
