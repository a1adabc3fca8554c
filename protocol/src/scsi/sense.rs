//! Sense data: why a command was not carried out (SPC-4, section "Sense data").

/// Sense keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing is wrong.
    NoSense = 0x0,
    /// The unit cannot be used now.
    NotReady = 0x2,
    /// The medium failed.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// The command is wrong.
    IllegalRequest = 0x5,
    /// Something happened that the initiator has to know of first.
    UnitAttention = 0x6,
    /// The medium must not be written.
    DataProtect = 0x7,
    /// The command was aborted.
    AbortedCommand = 0xb,
    /// A comparison failed.
    Miscompare = 0xe,
}

/// Additional sense codes with their qualifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum Additional {
    None = 0x0000,
    LogicalUnitNotReadyInitializingCommandRequired = 0x0402,
    WriteError = 0x0c00,
    UnrecoveredReadError = 0x1100,
    ParameterListLengthError = 0x1a00,
    MiscompareDuringVerify = 0x1d00,
    InvalidOperationCode = 0x2000,
    LbaOutOfRange = 0x2100,
    InvalidFieldInCdb = 0x2400,
    LogicalUnitNotSupported = 0x2500,
    InvalidFieldInParameterList = 0x2600,
    InvalidReleaseOfPersistentReservation = 0x2604,
    WriteProtected = 0x2700,
    SpaceAllocationFailed = 0x2707,
    PowerOnReset = 0x2900,
    BusDeviceReset = 0x2903,
    ITNexusLoss = 0x2907,
    ModeParametersChanged = 0x2a01,
    ReservationsPreempted = 0x2a03,
    ReservationsReleased = 0x2a04,
    RegistrationsPreempted = 0x2a05,
    CapacityDataHasChanged = 0x2a09,
    CommandsClearedByAnotherInitiator = 0x2f00,
    SavingParametersNotSupported = 0x3900,
    MediumNotPresent = 0x3a00,
    ReportedLunsDataHasChanged = 0x3f0e,
    InternalTargetFailure = 0x4400,
    UnexpectedUnsolicitedData = 0x0c0c,
    IncorrectAmountOfData = 0x0c0d,
    ProtocolServiceCrcError = 0x4705,
    MediumRemovalPrevented = 0x5302,
    InsufficientRegistrationResources = 0x5504,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// The kind of reason.
    pub key: SenseKey,
    /// The reason.
    pub additional: Additional,
    /// The first byte, and in it the highest bit, of the command descriptor block (true) or of the parameters that is wrong.
    pub field: Option<(bool, u16, Option<u8>)>,
    /// Where a comparison failed, in bytes from its start.
    pub information: Option<u64>,
}

impl Sense {
    /// Without particulars.
    #[must_use]
    pub const fn new(key: SenseKey, additional: Additional) -> Self {
        Self {
            key,
            additional,
            field: None,
            information: None,
        }
    }

    /// The command is wrong.
    #[must_use]
    pub const fn illegal(additional: Additional) -> Self {
        Self::new(SenseKey::IllegalRequest, additional)
    }

    /// This field of the command descriptor block is wrong.
    #[must_use]
    pub const fn in_command(byte: u16, bit: Option<u8>) -> Self {
        Self {
            field: Some((true, byte, bit)),
            ..Self::illegal(Additional::InvalidFieldInCdb)
        }
    }

    /// This field of the parameters is wrong.
    #[must_use]
    pub const fn in_parameters(byte: u16, bit: Option<u8>) -> Self {
        Self {
            field: Some((false, byte, bit)),
            ..Self::illegal(Additional::InvalidFieldInParameterList)
        }
    }

    /// Fixed format, 18 bytes.
    #[must_use]
    pub fn fixed(&self) -> [u8; 18] {
        let [code, qualifier] = (self.additional as u16).to_be_bytes();
        let [f0, f1, f2] = self.key_specific();
        // A value that does not fit is left out, and not called valid.
        let information = self.information.map(u32::try_from).and_then(Result::ok);
        let valid = if information.is_some() { 0x80 } else { 0 };
        let [i0, i1, i2, i3] = information.unwrap_or(0).to_be_bytes();
        [
            0x70 | valid,
            0,
            self.key as u8,
            i0,
            i1,
            i2,
            i3,
            10, // bytes that follow
            0,
            0,
            0,
            0,
            code,
            qualifier,
            0,
            f0,
            f1,
            f2,
        ]
    }

    /// Descriptor format.
    #[must_use]
    pub fn descriptors(&self) -> Vec<u8> {
        let [code, qualifier] = (self.additional as u16).to_be_bytes();
        let mut out = vec![0x72, self.key as u8, code, qualifier, 0, 0, 0, 0];
        if let Some(information) = self.information {
            out.extend_from_slice(&[0x00, 0x0a, 0x80, 0]);
            out.extend_from_slice(&information.to_be_bytes());
        }
        let [f0, f1, f2] = self.key_specific();
        if self.field.is_some() {
            out.extend_from_slice(&[0x02, 0x06, 0, 0, f0, f1, f2, 0]);
        }
        let following = u8::try_from(out.len().saturating_sub(8)).expect("two short descriptors");
        if let [_, _, _, _, _, _, _, length, ..] = out.as_mut_slice() {
            *length = following;
        }
        out
    }

    /// The field pointer of an illegal request.
    fn key_specific(&self) -> [u8; 3] {
        let Some((in_command, byte, bit)) = self.field else {
            return [0; 3];
        };
        let [high, low] = byte.to_be_bytes();
        let place = if in_command { 0xc0 } else { 0x80 };
        [place | bit.map_or(0, |bit| 8 | (bit & 7)), high, low]
    }
}
