//! What went wrong with a job, a model, an input? A stable code, one sentence, and whether trying again can help.
//!
//! The sentence names the value, the limit and the remedy. Codes are part of the protocol: they are never renamed.

use std::fmt;

use crate::units::{FAULT_TEXT_BYTES_MAX, is_steering};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $retryable:literal;)+) => {
        /// Stable codes of faults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)+ }

        impl Code {
            /// Every code, in the order of the protocol's list.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code as it is written in messages.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Whether the same request may succeed later without being changed.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)+ }
            }
        }
    };
}

codes! {
    /// Not JSON, an unknown or missing field, a wrong type.
    JobMalformed = "job.malformed", false;
    /// Manifest, input or item count above its limit.
    JobTooLarge = "job.too_large", false;
    /// Arrived with the retain flag: it would run again at every connect.
    JobRetained = "job.retained", false;
    /// Known id with another body.
    JobIdConflict = "job.id_conflict", false;
    /// The deadline has passed, or passed before the job arrived.
    JobExpired = "job.expired", false;
    /// The deadline cannot be met, given what the model costs and how much core time is expected to be free.
    JobInfeasible = "job.infeasible", false;
    /// A limit asks for more than the node allows.
    JobLimitExceedsPolicy = "job.limit_exceeds_policy", false;
    /// A field or feature that this version does not serve.
    JobUnsupported = "job.unsupported", false;
    /// No job of that id is known here.
    JobUnknown = "job.unknown", false;
    /// Every attempt was used up.
    JobAttempts = "job.attempts_exhausted", false;
    /// Taken back by its controller.
    JobCanceled = "job.canceled", false;
    /// Too many jobs are waiting.
    QueueFull = "queue.full", true;
    /// The store's quota is used up.
    SpoolFull = "spool.full", true;
    /// The node takes no new jobs.
    NodeDraining = "node.draining", true;
    /// Memory is short on the node: workers give theirs back.
    NodeMemory = "node.memory", true;
    /// The node goes on, but not at its best: its disk, its clock, its history or its broker is in the way.
    NodeDegraded = "node.degraded", true;
    /// The agent crashed too often in a short time: it reports, and runs nothing.
    NodeSafeMode = "node.safe_mode", true;
    /// The wall clock jumped, or is not to be trusted.
    ClockDoubt = "clock.doubt", true;
    /// The broker's ACL denies the node a topic of its own.
    MqttAclProbe = "mqtt.acl_probe_failed", false;
    /// The broker's certificate is not signed by the operator's authority.
    TlsUnknownCa = "tls.unknown_ca", false;
    /// The broker's certificate has expired.
    TlsCertExpired = "tls.cert_expired", false;
    /// The broker's certificate is not valid yet.
    TlsCertNotYetValid = "tls.cert_not_yet_valid", false;
    /// The broker's certificate is for other names.
    TlsWrongName = "tls.wrong_name", false;
    /// The broker's certificate is broken, revoked or made for another purpose.
    TlsCertInvalid = "tls.cert_invalid", false;
    /// The broker wants a certificate of us, and there is none.
    TlsClientCertRequired = "tls.client_cert_required", false;
    /// The broker does not take our certificate.
    TlsClientCertRefused = "tls.client_cert_refused", false;
    /// Others may read the private key.
    TlsKeyPermissions = "tls.key_permissions", false;
    /// Certificate and private key do not belong together.
    TlsKeyMismatch = "tls.key_mismatch", false;
    /// A file of certificates or keys cannot be read or used.
    TlsFile = "tls.file", false;
    /// Whoever answers at the broker's port does not speak TLS.
    TlsNotTls = "tls.not_tls", false;
    /// The broker speaks no version of TLS that is allowed here.
    TlsVersion = "tls.version", false;
    /// The broker breaks the protocol of TLS, or ended the handshake.
    TlsProtocol = "tls.protocol", true;
    /// The handshake took too long.
    TlsHandshakeTimeout = "tls.handshake_timeout", true;
    /// A certificate will soon expire, or has.
    TlsCertExpiring = "tls.cert_expiring", false;
    /// New certificate files cannot be used; the old ones stay in force.
    TlsReloadRefused = "tls.reload_refused", false;
    /// The sentinel was silent for so long that workers stopped themselves.
    SentinelSilent = "sentinel.silent", true;
    /// No model of that name and version.
    ModelUnknown = "model.unknown", false;
    /// The file's digest is not the one asked for.
    ModelHashMismatch = "model.hash_mismatch", false;
    /// Not a readable ONNX model.
    ModelParse = "model.parse", false;
    /// An operator that the engine does not have.
    ModelUnsupportedOp = "model.unsupported_op", false;
    /// A version of the file format or of an operator set that is not served.
    ModelOpset = "model.opset", false;
    /// An attribute, or a constant in its place, that its operator cannot take.
    ModelAttribute = "model.attribute", false;
    /// Not a graph: a name twice, a value that nothing makes, a circle.
    ModelGraph = "model.graph", false;
    /// A name that is missing, too long or holds what no name may.
    ModelName = "model.name", false;
    /// An element type that is not served.
    ModelDatatype = "model.datatype", false;
    /// Tensor data outside the file.
    ModelExternalData = "model.external_data", false;
    /// Shapes do not fit together.
    ModelShape = "model.shape", false;
    /// Above the size limit.
    ModelTooLarge = "model.too_large", false;
    /// Failed to load too often; refused until its digest changes.
    ModelQuarantined = "model.quarantined", false;
    /// No signature file beside the model.
    ModelUnsigned = "model.unsigned", false;
    /// Its signature does not verify, or is of a kind that is not accepted.
    ModelBadSignature = "model.bad_signature", false;
    /// Signed with a key that is no publisher's on this node.
    ModelUnknownKey = "model.unknown_key", false;
    /// Signed with a key that was revoked.
    ModelKeyRevoked = "model.key_revoked", false;
    /// Signed with a key that is not valid any more, or not yet.
    ModelKeyExpired = "model.key_expired", false;
    /// Signed with a key that does not count for models of that name.
    ModelKeyScope = "model.key_scope", false;
    /// Its files are not those that were signed.
    ModelFilesDiffer = "model.files_differ", false;
    /// Its version is below the lowest that the node accepts.
    ModelVersionRollback = "model.version_rollback", false;
    /// Its own time has passed.
    ModelExpired = "model.expired", false;
    /// It could not be fetched whole.
    ModelFetch = "model.fetch", true;
    /// The model ran but failed.
    ModelRun = "model.run", false;
    /// Wrong number of inputs.
    InputCount = "input.count", false;
    /// No such input.
    InputName = "input.name", false;
    /// Wrong element type.
    InputDatatype = "input.datatype", false;
    /// Wrong rank or dimension.
    InputShape = "input.shape", false;
    /// A number out of its type's range, not finite, or text that is not base64.
    InputValue = "input.value", false;
    /// Data longer or shorter than its shape.
    InputLength = "input.length", false;
    /// A picture or sound that cannot be decoded.
    InputDecode = "input.decode", false;
    /// Every item of the batch failed.
    ItemsFailed = "job.all_items_failed", false;
    /// The model gives no such output.
    OutputName = "output.name", false;
    /// The output is above the job's limit.
    OutputTooLarge = "output.too_large", false;
    /// Above the memory limit.
    WorkerMemory = "worker.memory", false;
    /// Above the running-time limit.
    WorkerTimeout = "worker.timeout", false;
    /// Its worker stood too long and was given up; the job goes on later.
    WorkerEvicted = "worker.evicted", true;
    /// The worker died.
    WorkerCrashed = "worker.crashed", true;
    /// The worker made a system call that its sandbox forbids, and was killed for it.
    WorkerSandboxViolation = "worker.sandbox_violation", false;
    /// The sandbox that is required cannot be had on this machine.
    SandboxUnavailable = "sandbox.unavailable", false;
    /// The worker could not be started.
    WorkerStart = "worker.start", true;
    /// The worker's answer made no sense.
    WorkerProtocol = "worker.protocol", true;
    /// A key file, or a key in it, that cannot be used.
    TrustKey = "trust.key", false;
    /// A key ring that cannot be read or makes no sense.
    TrustRing = "trust.ring", false;
    /// A key ring that is older than one seen before.
    TrustRingRollback = "trust.ring_rollback", false;
    /// No signature where one is required.
    TrustUnsigned = "trust.unsigned", false;
    /// More than one authorisation for one message.
    TrustAmbiguous = "trust.ambiguous", false;
    /// An envelope above its limit.
    TrustTooLarge = "trust.too_large", false;
    /// Not a DSSE envelope.
    TrustEnvelope = "trust.envelope", false;
    /// An envelope around something else.
    TrustPayloadType = "trust.payload_type", false;
    /// An envelope without a signature.
    TrustNoSignature = "trust.no_signature", false;
    /// More signatures than are looked at.
    TrustTooManySignatures = "trust.too_many_signatures", false;
    /// The ring has no such key.
    TrustUnknownKey = "trust.unknown_key", false;
    /// The key was revoked.
    TrustKeyRevoked = "trust.key_revoked", false;
    /// The key's time is over.
    TrustKeyExpired = "trust.key_expired", false;
    /// The key's time has not begun.
    TrustKeyNotYetValid = "trust.key_not_yet_valid", false;
    /// The key is for something else.
    TrustKeyRole = "trust.key_role", false;
    /// The key is for other sites or nodes.
    TrustKeyScope = "trust.key_scope", false;
    /// The signature is not the key's over these bytes.
    TrustBadSignature = "trust.bad_signature", false;
    /// A signature of the wrong length or form: one that could be altered and stay valid.
    TrustWeakSignature = "trust.weak_signature", false;
    /// What was signed cannot be read.
    TrustPayload = "trust.payload", false;
    /// What was signed is of another version.
    TrustVersion = "trust.version", false;
    /// Signed in the name of an issuer whose key it is not.
    TrustIssuer = "trust.issuer", false;
    /// Signed for another site.
    TrustWrongSite = "trust.wrong_site", false;
    /// Signed for another node.
    TrustWrongNode = "trust.wrong_node", false;
    /// Signed for another kind of order.
    TrustWrongOrder = "trust.wrong_order", false;
    /// Signed for another job.
    TrustWrongId = "trust.wrong_id", false;
    /// The order's time is over.
    TrustExpired = "trust.expired", false;
    /// The order's time has not begun.
    TrustNotYetValid = "trust.not_yet_valid", true;
    /// Signed later than now.
    TrustFromFuture = "trust.from_future", true;
    /// Valid for longer than an order may be.
    TrustLifetime = "trust.lifetime", false;
    /// The body is not the one that was signed.
    TrustBodyMismatch = "trust.body_mismatch", false;
    /// The length of the JSON or the content type is not the one that was signed.
    TrustFormMismatch = "trust.form_mismatch", false;
    /// The reply would go to another topic than was signed.
    TrustReplyMismatch = "trust.reply_mismatch", false;
    /// This order was carried out before.
    TrustReplayed = "trust.replayed", false;
    /// So old that nobody remembers whether it was carried out.
    TrustSequenceTooOld = "trust.sequence_too_old", false;
    /// The issuer may not have this model run.
    TrustModelNotAllowed = "trust.model_not_allowed", false;
    /// The node does not know the time well enough to judge an order's.
    TrustClockDoubt = "trust.clock_doubt", true;
    /// The orders of more issuers than are remembered.
    TrustIssuersFull = "trust.issuers_full", true;
    /// The durable store refused.
    StateIo = "state.io", true;
    /// The state was written by a newer version.
    StateVersion = "state.version", false;
    /// Another agent holds the state directory.
    StateLocked = "state.locked", false;
    /// The state cannot be read.
    StateCorrupt = "state.corrupt", false;
}

impl Code {
    /// The code of that text, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One fault: code and sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fault {
    /// Which kind of fault.
    pub code: Code,
    /// Value, limit and remedy, without control characters, at most [`FAULT_TEXT_BYTES_MAX`] bytes.
    pub message: String,
}

impl Fault {
    /// A fault whose text is made safe for logs, terminals and messages.
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        Self { code, message: plain(message.as_ref(), FAULT_TEXT_BYTES_MAX) }
    }
}

/// A text that may repeat what a stranger wrote, as it can be shown and logged: at most `bytes_max` bytes, and blanks
/// where it had characters that could drive a terminal.
pub fn plain(text: &str, bytes_max: usize) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        let c = if is_steering(c) { ' ' } else { c };
        if safe.len() + c.len_utf8() > bytes_max {
            break;
        }
        safe.push(c);
    }
    safe
}
