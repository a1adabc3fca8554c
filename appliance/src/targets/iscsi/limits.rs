//! Every size, count and time of the iSCSI target.

use std::time::Duration;

/// Longest sequence of data in one direction, in bytes.
pub(super) const MAX_BURST_BYTES: u32 = 1 << 20;
/// Most data that a write brings unasked for, in bytes.
pub(super) const FIRST_BURST_BYTES: u32 = 256 << 10;
/// Unanswered R2Ts of one command.
pub(super) const OUTSTANDING_R2T: u32 = 1;
/// Longest data segment that is taken, in bytes: announced at the login. Until then the protocol says 8192.
pub(super) const SEGMENT_BYTES: u32 = 256 << 10;
/// See [`SEGMENT_BYTES`].
pub(super) const LOGIN_SEGMENT_BYTES: u32 = 8192;
/// Commands of one session that are under way: what the command window lets an initiator send.
pub(super) const COMMANDS: u32 = 128;
/// Immediate commands, and task management functions, which no window holds back, that are under way beside them.
pub(super) const IMMEDIATE_COMMANDS: usize = 32;
/// Bytes that one session's commands hold at the same time: of writes that asked for their data, and of reads that wait for
/// the disk. One command may exceed it.
pub(super) const HELD_BYTES: u64 = 16 << 20;
/// Text of one login request or text request, in all its parts.
pub(super) const TEXT_BYTES: usize = 64 << 10;
/// Requests of one login.
pub(super) const LOGIN_REQUESTS: u32 = 64;
/// After so long without a word an initiator is asked whether it is there, and after so long without an answer it is not.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// See [`IDLE`].
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// How long an initiator that was asked to log out is waited for.
pub(super) const LOGOUT: Duration = Duration::from_secs(2);
/// How long a session that is replaced has to send what it owes.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long a new session waits for the old one of the same initiator port to end.
pub(super) const REINSTATEMENT: Duration = Duration::from_secs(10);
/// Bytes of a CHAP challenge, and most of one that an initiator sends.
pub(super) const CHALLENGE_BYTES: usize = 24;
/// See [`CHALLENGE_BYTES`].
pub(super) const MOST_CHALLENGE_BYTES: usize = 1024;
/// Longest name of an initiator or a target (RFC 7143, section 4.2.7).
pub(super) const NAME_BYTES: usize = 223;
