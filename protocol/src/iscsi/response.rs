//! What a target sends, section 11: headers only; what follows them is the caller's.

use super::{HEADER_BYTES, NO_TAG, Stage};

/// Opcodes of section 11.2.1.2.
const NOP_IN: u8 = 0x20;
const SCSI_RESPONSE: u8 = 0x21;
const TASK_RESPONSE: u8 = 0x22;
const LOGIN_RESPONSE: u8 = 0x23;
const TEXT_RESPONSE: u8 = 0x24;
const DATA_IN: u8 = 0x25;
const LOGOUT_RESPONSE: u8 = 0x26;
const READY_TO_TRANSFER: u8 = 0x31;
const ASYNC_MESSAGE: u8 = 0x32;
const REJECT: u8 = 0x3f;

/// The bit that most headers have set in their second byte.
const FINAL: u8 = 0x80;

/// The numbers that every message of a target carries (section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Serial {
    /// StatSN: the status that this is, or that comes next.
    pub status: u32,
    /// ExpCmdSN: the command that is expected next.
    pub expected_command: u32,
    /// MaxCmdSN: the last command that would be taken now.
    pub max_command: u32,
}

/// A header as it goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    first: [u8; 4],
    data_bytes: u32,
    lun: [u8; 8],
    task_tag: u32,
    rest: [u32; 7],
}

impl Response {
    fn new(opcode: u8, flags: u8, task_tag: u32, serial: Serial) -> Self {
        Self {
            first: [opcode, flags, 0, 0],
            data_bytes: 0,
            lun: [0; 8],
            task_tag,
            rest: [
                0,
                serial.status,
                serial.expected_command,
                serial.max_command,
                0,
                0,
                0,
            ],
        }
    }

    /// The same, followed by so many bytes of data.
    #[must_use]
    pub fn with_data(self, bytes: usize) -> Self {
        let data_bytes = u32::try_from(bytes).expect("a data segment is below 16 MiB");
        Self { data_bytes, ..self }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let [l0, l1, l2, l3, l4, l5, l6, l7] = self.lun;
        // Without additional header segments the upper byte of this word is 0, as their length has to be.
        let head = [
            self.first,
            self.data_bytes.to_be_bytes(),
            [l0, l1, l2, l3],
            [l4, l5, l6, l7],
            self.task_tag.to_be_bytes(),
        ];
        let words = head.into_iter().chain(self.rest.map(u32::to_be_bytes));
        for (place, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word;
        }
        out
    }
}

/// NOP-In, section 11.19: an answer, or with `transfer_tag` a question.
#[must_use]
pub fn nop_in(task_tag: u32, lun: u64, transfer_tag: u32, serial: Serial) -> Response {
    let mut response = Response::new(NOP_IN, FINAL, task_tag, serial);
    response.lun = lun.to_be_bytes();
    let [tag, ..] = &mut response.rest;
    *tag = transfer_tag;
    response
}

/// By how much the data of a command differs from what the initiator expected (section 11.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// Not at all.
    None,
    /// So much was not transferred because nothing more was expected.
    Overflow(u32),
    /// So much less than expected was transferred.
    Underflow(u32),
}

impl Residual {
    const fn flags(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Overflow(_) => 4,
            Self::Underflow(_) => 2,
        }
    }

    const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Overflow(count) | Self::Underflow(count) => count,
        }
    }
}

/// SCSI response of a command that was carried out or refused with this status, section 11.4. `data_sequences` is the number
/// of data-ins and R2Ts that the command had.
#[must_use]
pub fn scsi_response(
    task_tag: u32,
    status: u8,
    residual: Residual,
    data_sequences: u32,
    serial: Serial,
) -> Response {
    let mut response = Response::new(SCSI_RESPONSE, FINAL | residual.flags(), task_tag, serial);
    response.first = [SCSI_RESPONSE, FINAL | residual.flags(), 0, status];
    let [.., expected_data, _, count] = &mut response.rest;
    (*expected_data, *count) = (data_sequences, residual.count());
    response
}

/// Data-in, section 11.7. With `status` it is the last of its command and stands for the response; then it has a status
/// number, otherwise none.
#[must_use]
pub fn data_in(
    task_tag: u32,
    (number, offset): (u32, u32),
    is_final: bool,
    status: Option<(u8, Residual)>,
    serial: Serial,
) -> Response {
    let (flags, code, residual) = match status {
        None => (0, 0, Residual::None),
        Some((code, residual)) => (1 | residual.flags(), code, residual),
    };
    let serial = Serial {
        status: if status.is_some() { serial.status } else { 0 },
        ..serial
    };
    let flags = flags | if is_final { FINAL } else { 0 };
    let mut response = Response::new(DATA_IN, flags, task_tag, serial);
    response.first = [DATA_IN, flags, 0, code];
    let [tag, _, _, _, data_number, buffer_offset, count] = &mut response.rest;
    (*tag, *data_number, *buffer_offset, *count) = (NO_TAG, number, offset, residual.count());
    response
}

/// Ready to transfer, section 11.8: asks for a part of the data of a command, by offset and length.
#[must_use]
pub fn ready_to_transfer(
    task_tag: u32,
    (lun, transfer_tag): (u64, u32),
    number: u32,
    (offset, length): (u32, u32),
    serial: Serial,
) -> Response {
    let mut response = Response::new(READY_TO_TRANSFER, FINAL, task_tag, serial);
    response.lun = lun.to_be_bytes();
    let [tag, _, _, _, rest @ ..] = &mut response.rest;
    *tag = transfer_tag;
    *rest = [number, offset, length];
    response
}

/// Answers to a task management function, section 11.6.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskResponse {
    /// It was done.
    Complete = 0,
    /// There is no such task.
    NoTask = 1,
    /// There is no such logical unit.
    NoLun = 2,
    /// Tasks cannot be reassigned.
    NoReassign = 4,
    /// There is no such function.
    Unsupported = 5,
    /// It was refused.
    Rejected = 255,
}

/// Task management function response, section 11.6.
#[must_use]
pub fn task_response(task_tag: u32, answer: TaskResponse, serial: Serial) -> Response {
    let mut response = Response::new(TASK_RESPONSE, FINAL, task_tag, serial);
    response.first = [TASK_RESPONSE, FINAL, answer as u8, 0];
    response
}

/// Outcomes of a login, section 11.13.5: class and detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum LoginStatus {
    /// It goes on, or is over.
    Success = 0x0000,
    /// The initiator broke the protocol.
    InitiatorError = 0x0200,
    /// It is not who it says.
    AuthenticationFailure = 0x0201,
    /// It may not use this target.
    Forbidden = 0x0202,
    /// There is no such target.
    NotFound = 0x0203,
    /// It speaks another version.
    Version = 0x0205,
    /// There are too many connections in the session.
    TooManyConnections = 0x0206,
    /// A key that is needed was not given.
    MissingParameter = 0x0207,
    /// The connection cannot be in the session.
    CannotInclude = 0x0208,
    /// There is no such kind of session.
    SessionType = 0x0209,
    /// There is no such session.
    NoSession = 0x020a,
    /// The request does not belong in a login.
    InvalidRequest = 0x020b,
    /// The target has a fault.
    TargetError = 0x0300,
    /// The target cannot serve now.
    Unavailable = 0x0301,
    /// The target has too much to do.
    OutOfResources = 0x0302,
}

/// Login response, section 11.13. `stages` are the present and, if the login goes on to it, the next one.
#[must_use]
pub fn login_response(
    task_tag: u32,
    (isid, tsih): ([u8; 6], u16),
    (current, next): (Stage, Option<Stage>),
    status: LoginStatus,
    serial: Serial,
) -> Response {
    let transit = next.map_or(0, |next| FINAL | next.code());
    let flags = if status == LoginStatus::Success {
        transit | (current.code() << 2)
    } else {
        0
    };
    let mut response = Response::new(LOGIN_RESPONSE, flags, task_tag, serial);
    let [i0, i1, i2, i3, i4, i5] = isid;
    let [t0, t1] = tsih.to_be_bytes();
    response.lun = [i0, i1, i2, i3, i4, i5, t0, t1];
    let [_, _, _, _, outcome, ..] = &mut response.rest;
    *outcome = u32::from(status as u16) << 16;
    response
}

/// Text response, section 11.11; with a `transfer_tag` more follows when the initiator asks for it.
#[must_use]
pub fn text_response(task_tag: u32, transfer_tag: Option<u32>, serial: Serial) -> Response {
    let flags = if transfer_tag.is_some() { 0x40 } else { FINAL };
    let mut response = Response::new(TEXT_RESPONSE, flags, task_tag, serial);
    let [tag, ..] = &mut response.rest;
    *tag = transfer_tag.unwrap_or(NO_TAG);
    response
}

/// Answers to a logout, section 11.15.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LogoutResponse {
    /// It is closed.
    Closed = 0,
    /// There is no such connection.
    NoConnection = 1,
    /// Connections cannot be recovered.
    NoRecovery = 2,
}

/// Logout response, section 11.15.
#[must_use]
pub fn logout_response(task_tag: u32, answer: LogoutResponse, serial: Serial) -> Response {
    let mut response = Response::new(LOGOUT_RESPONSE, FINAL, task_tag, serial);
    response.first = [LOGOUT_RESPONSE, FINAL, answer as u8, 0];
    response
}

/// What a target says unasked, section 11.9.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncEvent {
    /// Sense data of a logical unit follows.
    Sense,
    /// The initiator is asked to log out within so many seconds.
    LogoutRequest {
        /// Seconds.
        within: u16,
    },
}

/// Asynchronous message, section 11.9.
#[must_use]
pub fn async_message(lun: u64, event: AsyncEvent, serial: Serial) -> Response {
    let mut response = Response::new(ASYNC_MESSAGE, FINAL, NO_TAG, serial);
    response.lun = lun.to_be_bytes();
    let (code, seconds) = match event {
        AsyncEvent::Sense => (0_u32, 0),
        AsyncEvent::LogoutRequest { within } => (1, within),
    };
    let [_, _, _, _, what, parameters, _] = &mut response.rest;
    (*what, *parameters) = (code << 24, u32::from(seconds));
    response
}

/// Reasons of section 11.17.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectReason {
    /// The data does not have its digest.
    DataDigest = 2,
    /// SNACK is only for higher error recovery levels.
    Snack = 3,
    /// What was sent breaks the protocol.
    Protocol = 4,
    /// It is not known here.
    Unsupported = 5,
    /// There are too many immediate commands.
    TooManyImmediate = 6,
    /// There is no such task.
    TaskInProgress = 7,
    /// A field is not what it can be.
    InvalidField = 9,
    /// Too much is under way.
    OutOfResources = 10,
}

/// Reject, section 11.17; the header that is rejected follows as data.
#[must_use]
pub fn reject(reason: RejectReason, serial: Serial) -> Response {
    let mut response = Response::new(REJECT, FINAL, NO_TAG, serial);
    response.first = [REJECT, FINAL, reason as u8, 0];
    response.with_data(HEADER_BYTES)
}
