//! Which operators are computed here? Those of a domain that the engine has under that domain's meaning.
//!
//! The engine looks an operator up by its name alone: without this table `corp.example.Relu` would run as `Relu`, and
//! `com.microsoft.Attention` as the other one of ONNX.

/// Operator sets by domain, with the versions that are served and their operators, sorted.
pub(super) const SETS: [Set; 3] = [
    Set { domain: "ai.onnx", versions: (7, 23), operators: AI_ONNX },
    Set { domain: "ai.onnx.ml", versions: (1, 4), operators: AI_ONNX_ML },
    Set { domain: "com.microsoft", versions: (1, 1), operators: COM_MICROSOFT },
];

/// One operator set.
pub(super) struct Set {
    pub(super) domain: &'static str,
    /// Lowest and highest version.
    pub(super) versions: (i64, i64),
    pub(super) operators: &'static [&'static str],
}

impl Set {
    pub(super) fn has(&self, operator: &str) -> bool {
        self.operators.binary_search(&operator).is_ok()
    }
}

/// The full name of a domain: ONNX's own may be left empty.
pub(super) fn domain(written: &str) -> &str {
    if written.is_empty() { "ai.onnx" } else { written }
}

/// The operator set of a domain, if it is served.
pub(super) fn set(domain: &str) -> Option<&'static Set> {
    SETS.iter().find(|set| set.domain == domain)
}

#[rustfmt::skip]
const AI_ONNX: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Attention",
    "AveragePool", "BatchNormalization", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "BlackmanWindow", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Compress", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvInteger", "ConvTranspose", "Cos", "Cosh", "CumSum", "DFT", "DepthToSpace", "DequantizeLinear", "Div",
    "Dropout", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor",
    "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "HammingWindow", "HannWindow", "HardSigmoid",
    "HardSwish", "Hardmax", "Identity", "If", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "MatMul",
    "MatMulInteger", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "MelWeightMatrix", "Min", "Mish", "Mod",
    "Mul", "Multinomial", "Neg", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow",
    "QLinearConv", "QLinearMatMul", "QuantizeLinear", "RMSNormalization", "RNN", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Reshape", "Resize", "RotaryEmbedding", "Round", "STFT", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu",
    "Shape", "Shrink", "Sigmoid", "Sign", "SimplifiedLayerNormalization", "Sin", "Sinh", "Size", "Slice", "Softmax",
    "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu",
    "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
];

#[rustfmt::skip]
const AI_ONNX_ML: &[&str] = &[
    "ArrayFeatureExtractor", "CategoryMapper", "LinearClassifier", "LinearRegressor", "Normalizer",
    "TreeEnsembleClassifier",
];

#[rustfmt::skip]
const COM_MICROSOFT: &[&str] = &[
    "BiasGelu", "FastGelu", "GatherBlockQuantized", "Gelu", "GroupQueryAttention", "MatMulNBits", "MultiHeadAttention",
    "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_sorted_and_found() {
        for set in &SETS {
            assert!(set.operators.is_sorted_by(|a, b| a < b), "{}", set.domain);
            assert!(set.operators.iter().all(|operator| set.has(operator)));
        }
        assert!(!set("ai.onnx").unwrap().has("Loop"));
        assert!(set("corp.example").is_none());
    }
}
