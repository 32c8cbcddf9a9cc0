//! Do these tensors fit the model, and what fills the inputs that a request left out?

use super::{Manifest, Port};
use crate::fault::{Code, Fault};
use crate::tensor::{DataType, Tensor, elements};

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An encoded medium that the worker prepares (and, if the request likes, raw tensors for the other inputs).
    Media,
    /// The network's own inputs.
    Raw,
}

impl Manifest {
    /// Says whether the tensors are an encoded medium or the network's own inputs, and that they fit.
    ///
    /// # Errors
    /// `input.count`, `input.name`, `input.datatype`, `input.shape` or `input.length`, with what was expected and got.
    pub fn check_inputs(&self, inputs: &[Tensor]) -> Result<Kind, Fault> {
        let filled = self.prepare.as_ref().filter(|prepare| inputs.iter().any(|input| input.name == prepare.accepts));
        for (at, input) in inputs.iter().enumerate() {
            if inputs[..at].iter().any(|earlier| earlier.name == input.name) {
                return Err(Fault::new(Code::InputName, format!("input {:?} is given twice", input.name)));
            }
            let port = self.inputs.iter().find(|port| port.name == input.name);
            match (filled, port) {
                (Some(prepare), _) if prepare.accepts == input.name => check_medium(input)?,
                (Some(prepare), Some(port)) if prepare.input == port.name => {
                    let text = format!(
                        "input {:?} is filled from the medium {:?}: send one of them, not both",
                        port.name, prepare.accepts
                    );
                    return Err(Fault::new(Code::InputName, text));
                }
                (_, Some(port)) => check_tensor(port, input)?,
                (_, None) => return Err(self.unknown_input(&input.name)),
            }
        }
        let missing = self.inputs.iter().find(|port| {
            port.default.is_none()
                && filled.is_none_or(|prepare| prepare.input != port.name)
                && inputs.iter().all(|input| input.name != port.name)
        });
        match (missing, filled) {
            (Some(port), _) => Err(self.missing_input(port, inputs.len())),
            (None, Some(_)) => Ok(Kind::Media),
            (None, None) => Ok(Kind::Raw),
        }
    }

    /// Puts checked raw inputs into the network's order and fills the ones that were left out with their defaults.
    ///
    /// # Errors
    /// `input.count` when an input without a default is missing.
    pub fn complete(&self, mut inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
        let given = inputs.len();
        let mut complete = Vec::with_capacity(self.inputs.len());
        for port in &self.inputs {
            let at = inputs.iter().position(|input| input.name == port.name);
            let tensor = match at {
                Some(at) => inputs.swap_remove(at),
                None => port.filled().ok_or_else(|| self.missing_input(port, given))?,
            };
            complete.push(tensor);
        }
        Ok(complete)
    }

    fn unknown_input(&self, name: &str) -> Fault {
        let name: String = name.chars().take(64).collect();
        let text = format!("model {} has no input {name:?}; it takes {}", self.name, self.wanted());
        Fault::new(Code::InputName, text)
    }

    fn missing_input(&self, port: &Port, given: usize) -> Fault {
        let text = format!(
            "model {} needs input {:?}, which is not among the {given} given; it takes {}",
            self.name,
            port.name,
            self.wanted()
        );
        Fault::new(Code::InputCount, text)
    }

    /// What the model takes, for fault texts.
    fn wanted(&self) -> String {
        let ports: Vec<String> = self.inputs.iter().map(describe).collect();
        let raw = ports.join(", ");
        match &self.prepare {
            Some(prepare) => format!("one BYTES tensor {:?} of shape [1], or {raw}", prepare.accepts),
            None => raw,
        }
    }
}

impl Port {
    /// A tensor filled with the default; `None` when there is none.
    fn filled(&self) -> Option<Tensor> {
        let shape: Vec<usize> = self.shape.iter().copied().collect::<Option<_>>()?;
        let element = element(self.datatype, self.default?)?;
        let data = element.repeat(elements(&shape)?);
        Some(Tensor { name: self.name.clone(), datatype: self.datatype, shape, data })
    }
}

/// Bytes of one element of that value; `None` when the type cannot hold it.
pub(in crate::model) fn element(datatype: DataType, value: f64) -> Option<Vec<u8>> {
    #[expect(clippy::cast_possible_truncation, reason = "compared with the value right after")]
    let whole = value as i128;
    #[expect(clippy::cast_precision_loss, reason = "a value that loses precision is refused")]
    let exact = whole as f64 == value;
    macro_rules! integer {
        ($kind:ty) => {
            <$kind>::try_from(whole).ok().filter(|_| exact).map(|whole| whole.to_le_bytes().to_vec())
        };
    }
    match datatype {
        DataType::Bool => (value == 0.0 || value == 1.0).then(|| vec![u8::from(value == 1.0)]),
        DataType::Uint8 => integer!(u8),
        DataType::Uint16 => integer!(u16),
        DataType::Uint32 => integer!(u32),
        DataType::Uint64 => integer!(u64),
        DataType::Int8 => integer!(i8),
        DataType::Int16 => integer!(i16),
        DataType::Int32 => integer!(i32),
        DataType::Int64 => integer!(i64),
        DataType::Fp16 => Some(half::f16::from_f64(value).to_le_bytes().to_vec()),
        #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is meant")]
        DataType::Fp32 => Some((value as f32).to_le_bytes().to_vec()),
        DataType::Fp64 => Some(value.to_le_bytes().to_vec()),
        DataType::Bytes => None,
    }
}

fn check_medium(input: &Tensor) -> Result<(), Fault> {
    if input.datatype != DataType::Bytes {
        let text = format!("input {:?} is an encoded medium: expected BYTES, got {}", input.name, input.datatype);
        return Err(Fault::new(Code::InputDatatype, text));
    }
    if input.shape != [1] {
        let text = format!(
            "input {:?} holds one medium: expected shape [1], got {:?}; send several as items of the job",
            input.name, input.shape
        );
        return Err(Fault::new(Code::InputShape, text));
    }
    if input.to_strings().map(|strings| strings.len()) != Some(1) {
        let text = format!("input {:?}: its length prefix does not fill its {} bytes", input.name, input.data.len());
        return Err(Fault::new(Code::InputLength, text));
    }
    Ok(())
}

fn check_tensor(port: &Port, input: &Tensor) -> Result<(), Fault> {
    if input.datatype != port.datatype {
        let text = format!("input {:?}: expected {}, got {}", port.name, port.datatype, input.datatype);
        return Err(Fault::new(Code::InputDatatype, text));
    }
    if !port.accepts_shape(&input.shape) || input.shape.contains(&0) {
        let text = format!(
            "input {:?}: expected shape {}, got {:?} (-1 stands for any length from 1)",
            port.name,
            describe_shape(port),
            input.shape
        );
        return Err(Fault::new(Code::InputShape, text));
    }
    check_length(input)
}

fn check_length(input: &Tensor) -> Result<(), Fault> {
    let count = input.elements();
    let fits = match (count, input.datatype.element_bytes()) {
        (Some(count), Some(size)) => count * size == input.data.len(),
        (Some(count), None) => input.to_strings().is_some_and(|strings| strings.len() == count),
        (None, _) => false,
    };
    if fits {
        return Ok(());
    }
    let text = format!(
        "input {:?} of shape {:?} and type {}: its {} bytes are not what shape and type ask for",
        input.name,
        input.shape,
        input.datatype,
        input.data.len()
    );
    Err(Fault::new(Code::InputLength, text))
}

fn describe(port: &Port) -> String {
    format!("{:?} {} {}", port.name, port.datatype, describe_shape(port))
}

fn describe_shape(port: &Port) -> String {
    let sides: Vec<String> =
        port.shape.iter().map(|side| side.map_or_else(|| "-1".to_owned(), |side| side.to_string())).collect();
    format!("[{}]", sides.join(","))
}
