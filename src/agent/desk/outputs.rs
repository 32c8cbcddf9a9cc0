//! Which outputs did the request ask for?

use crate::fault::{Code, Fault};
use crate::link::messages::Request;
use crate::model::Manifest;
use crate::tensor::Tensor;

/// Refuses names that the model cannot give, as far as they are known before it has run: interpretation names its
/// outputs itself.
pub(super) fn check(manifest: &Manifest, request: &Request) -> Result<(), Fault> {
    let Some(wanted) = &request.outputs else { return Ok(()) };
    if request.interpret && manifest.interpret.is_some() {
        return Ok(());
    }
    all_there(wanted, manifest.outputs.iter().map(|port| port.name.as_str()))
}

/// Leaves the outputs that were asked for, in the order of the request.
pub(super) fn pick(wanted: Option<&[String]>, tensors: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
    let Some(wanted) = wanted else { return Ok(tensors) };
    all_there(wanted, tensors.iter().map(|tensor| tensor.name.as_str()))?;
    let place = |tensor: &Tensor| wanted.iter().position(|name| *name == tensor.name);
    let mut picked: Vec<Tensor> = tensors.into_iter().filter(|tensor| place(tensor).is_some()).collect();
    picked.sort_by_key(place);
    Ok(picked)
}

fn all_there<'a>(wanted: &[String], there: impl Iterator<Item = &'a str>) -> Result<(), Fault> {
    let there: Vec<&str> = there.collect();
    let Some(missing) = wanted.iter().find(|name| !there.contains(&name.as_str())) else { return Ok(()) };
    let missing: String = missing.chars().take(64).collect();
    let text = format!("the model gives no output {missing:?} here; it gives {}", there.join(", "));
    Err(Fault::new(Code::OutputName, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<Tensor> {
        ["a", "b", "c"].map(|name| Tensor::f32s(name, vec![1], &[0.0]).unwrap()).into()
    }

    #[test]
    fn outputs_come_as_they_were_asked_for() {
        let names = |tensors: Vec<Tensor>| tensors.into_iter().map(|tensor| tensor.name).collect::<Vec<_>>();
        assert_eq!(names(pick(None, tensors()).unwrap()), ["a", "b", "c"]);
        let wanted = ["c".to_owned(), "a".to_owned()];
        assert_eq!(names(pick(Some(&wanted), tensors()).unwrap()), ["c", "a"]);
    }

    #[test]
    fn an_output_that_is_not_there_is_named_with_those_that_are() {
        let fault = pick(Some(&["boxes".to_owned()]), tensors()).unwrap_err();
        assert_eq!(fault.code, Code::OutputName);
        assert!(fault.message.contains("\"boxes\"") && fault.message.contains("a, b, c"), "{fault}");
    }
}
