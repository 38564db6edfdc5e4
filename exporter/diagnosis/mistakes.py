"""The table of known mistakes: why a batch norm gives different numbers than Keras, one row per mistake.

docs/make_batchnorm.py generates docs/batchnorm.md from it; `bn-diagnose --explain BN101` prints a row.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable

from exporter.diagnosis import wrong, wrong_statistics
from exporter.diagnosis.case import Case, Variants
from exporter.errors import UsageError

GITHUB = "https://github.com/"
STACK = "https://stackoverflow.com/questions/"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """One mistake.

    code, name: stable.  line: the wrong code as people write it; NumPy, with one channel's numbers in gamma, beta, mean,
    variance, epsilon and the input in x.  why: why the numbers differ.  instead: what to do.  seen: where it was seen in public.
    wrong:      the variants of the mistake as changed cases; None if only the data can tell (a permutation, an epsilon).
    example:    with `wrong` None, samples of the mistake for test vectors.
    alone:      not tried in pairs with other mistakes.
    """

    code: str
    name: str
    line: str
    why: str
    instead: str
    seen: tuple[str, ...]
    wrong: Callable[[Case], Variants] | None = None
    example: Callable[[Case], Variants] | None = None
    alone: bool = True

    def tried(self, case: Case) -> Variants:
        """The variants that numbers are compared with: none if only the data can tell."""
        return iter(()) if self.wrong is None else self.wrong(case)

    def variants(self, case: Case) -> list[tuple[str, Case]]:
        """(which variant, changed case) of each variant that is possible for the case's layer."""
        make = self.wrong or self.example
        return list(make(case)) if make is not None else []


def _issues(*threads: str) -> tuple[str, ...]:
    """"owner/repo#1" and "owner/repo!1" as addresses of an issue and a pull request."""
    return tuple(GITHUB + thread.replace("#", "/issues/").replace("!", "/pull/") for thread in threads)


MAX_WIDTH = 77  # of lines for people, which the diagnosis indents by 2: a terminal has 80
RIGHT = "gamma * (x - mean) / np.sqrt(variance + epsilon) + beta"

MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        code="BN101", name="epsilon outside the root", wrong=wrong.epsilon_outside, alone=False,
        line="gamma * (x - mean) / (np.sqrt(variance) + epsilon) + beta",
        why="sqrt(v) + e is not sqrt(v + e). For v = 0.0004 and e = 0.001 the divisor is 0.021 instead of 0.037, and the output is 1.8 "
            "times too large; for v near 1 the two differ by only 5e-4, and the mistake goes unnoticed.",
        instead="add epsilon to the variance first, then take the square root of the sum",
        seen=(STACK + "44093698", *_issues("Tencent/ncnn!311", "pjreddie/darknet!17", "Cadene/pretrained-models.pytorch#99"))),
    Mistake(
        code="BN102", name="no epsilon", wrong=wrong.no_epsilon, alone=False,
        line="gamma * (x - mean) / np.sqrt(variance) + beta",
        why="the layer was trained with epsilon under the root, so its gamma belongs to sqrt(v + e). Channels with a small variance "
            "come out too large, and one with variance 0 comes out as infinity or NaN.",
        instead="add the layer's epsilon to the variance; the bundle states it for each layer",
        seen=_issues("NervanaSystems/ngraph-tf#143", "LBANN/lbann!825", "Tencent/ncnn#303")),
    Mistake(
        code="BN103", name="another framework's default epsilon", wrong=wrong.default_epsilon, alone=False,
        line="gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta",
        why="the default is 1e-3 in Keras, 1e-5 in PyTorch and ONNX, 1e-6 in darknet, and 1e-4 in TensorFlow's fused op. A layer that "
            "is rebuilt in another framework gets that framework's default unless epsilon is passed on.",
        instead="pass the layer's epsilon: BatchNorm2d(channels, eps=epsilon), the epsilon attribute in ONNX",
        seen=_issues("qqwweee/keras-yolo3#451", "ceccocats/tkDNN#167", "qualcomm/aimet#1957", "tensorflow/tensorflow#42605")),
    Mistake(
        code="BN104", name="the epsilon of TensorFlow's fused kernel", wrong=wrong.fused_epsilon, alone=False,
        line="gamma * (x - mean) / np.sqrt(variance + max(epsilon, 1.001e-5)) + beta",
        why="TensorFlow 1.4 to 2.11 raised a smaller epsilon to 1.001e-5 in tf.nn.fused_batch_norm, whatever the config said. The same "
            "model gives other outputs in a later TensorFlow, although every stored number is the same.",
        instead="decide which of the two you need; bn-export --effective-epsilon writes the kernel's value as the layer's epsilon",
        seen=_issues("tensorflow/tensorflow#37768", "tensorflow/tensorflow!53065")),
    Mistake(
        code="BN105", name="another epsilon", example=wrong.another_epsilon,
        line="gamma * (x - mean) / np.sqrt(variance + 0.002) + beta",
        why="the numbers fit the formula with one different epsilon for all channels, which was solved for from the data.",
        instead="use the layer's own epsilon",
        seen=_issues("gzuidhof/nn-transfer!3", "wang-xinyu/tensorrtx!562", "Xilinx/finn-base!21")),
    Mistake(
        code="BN106", name="epsilon added twice", wrong=wrong.epsilon_twice,
        line="gamma * (x - mean) / (np.sqrt(variance + epsilon) + epsilon) + beta",
        why="some code adds epsilon under the root and again to the standard deviation, to be safe, as Keras 0.x did.",
        instead="add epsilon once, under the root",
        seen=_issues("keras-team/keras!2961")),
    Mistake(
        code="BN107", name="epsilon as a lower limit", wrong=wrong.epsilon_as_floor,
        line="gamma * (x - mean) / np.sqrt(np.maximum(variance, epsilon)) + beta",
        why="max(v, e) prevents a division by 0, but the layer was trained with v + e. The output is up to 1.4 times too large, at v = e.",
        instead="add epsilon; do not clamp",
        seen=_issues("vacancy/Synchronized-BatchNorm-PyTorch#38", "vacancy/Synchronized-BatchNorm-PyTorch#43")),
    Mistake(
        code="BN111", name="divided by the variance", wrong=wrong.divided_by_variance, alone=False,
        line="gamma * (x - mean) / (variance + epsilon) + beta",
        why="the square root was forgotten, as it was for years in the formula in Keras's own documentation.",
        instead="divide by np.sqrt(variance + epsilon)",
        seen=_issues("tensorflow/tensorflow#48039", "keras-team/keras#3484")),
    Mistake(
        code="BN112", name="variance taken for a standard deviation", wrong=wrong.variance_squared, alone=False,
        line="gamma * (x - mean) / np.sqrt(variance**2 + epsilon) + beta",
        why="moving_variance is a variance. Code that expects a standard deviation squares it, and the root undoes only the squaring.",
        instead="use moving_variance as it is: it is already the square of the standard deviation",
        seen=_issues("keras-team/keras#3484", "keras-team/keras!5178", "jax-ml/jax!443")),
    Mistake(
        code="BN113", name="standard deviation taken for a variance", wrong=wrong.deviation_as_variance, alone=False,
        line="gamma * (x - mean) / np.sqrt(np.sqrt(variance) + epsilon) + beta",
        why="the array was converted to a standard deviation (or comes from a Keras that stored running_std), and the root is taken again.",
        instead="store the variance, or leave out the second root",
        seen=_issues("keunwoochoi/transfer_learning_music#2", "keras-team/keras#3957")),
    Mistake(
        code="BN114", name="multiplied instead of divided", wrong=wrong.multiplied, alone=False,
        line="gamma * (x - mean) * np.sqrt(variance + epsilon) + beta",
        why="some frameworks store 1 / sqrt(v + e) (Lasagne's inv_std) and multiply by it. Keras stores the variance.",
        instead="divide by np.sqrt(variance + epsilon)",
        seen=(STACK + "49930367", *_issues("tensorflow/tensorflow#22985"))),
    Mistake(
        code="BN121", name="statistics of the batch instead of the moving ones", wrong=wrong_statistics.batch_statistics, alone=False,
        line="gamma * (x - x.mean()) / np.sqrt(x.var() + epsilon) + beta",
        why="in inference Keras normalizes by moving_mean and moving_variance, collected during training, not by the mean and variance of "
            "the current input; so the output of a batch need not have mean 0 and variance 1. Only training (training=True, PyTorch's "
            "train mode) uses the batch.",
        instead="use moving_mean and moving_variance; in PyTorch call model.eval() first, in Keras 3 model(x, training=False): after "
                "RandomFlip, Resizing and the like model(x) runs as in training",
        seen=(STACK + "46443196",
              STACK + "47567655",
              *_issues("pytorch/pytorch#1725", "gmalivenko/pytorch2keras#13", "keras-team/keras#9522"))),
    Mistake(
        code="BN122", name="unbiased statistics of the batch", wrong=wrong_statistics.unbiased_batch_statistics, alone=False,
        line="gamma * (x - x.mean()) / np.sqrt(x.var(ddof=1) + epsilon) + beta",
        why="as in BN121, and the variance is computed with n - 1 (NumPy's ddof=1, torch.var's default), which no framework does in a "
            "forward pass.",
        instead="use moving_mean and moving_variance",
        seen=_issues("keras-team/keras#10443", "pytorch/pytorch#19902")),
    Mistake(
        code="BN123", name="moving statistics never loaded", wrong=wrong.statistics_never_loaded, alone=False,
        line="gamma * (x - 0) / np.sqrt(1 + epsilon) + beta",
        why="the layer still has the mean 0 and variance 1 (or 0) that it was created with: the loader only handles trainable weights, "
            "or the training loop never updated the statistics.",
        instead="also load moving_mean and moving_variance; they are not trainable weights",
        seen=_issues("tensorflow/tensorflow#11965", "tensorflow/tensorflow#3926", "onnx/tensorflow-onnx#1610", "onnx/onnxmltools#323")),
    Mistake(
        code="BN124", name="mean and variance swapped", wrong=wrong.mean_and_variance_swapped, alone=False,
        line="gamma * (x - variance) / np.sqrt(mean + epsilon) + beta",
        why="get_weights() returns gamma, beta, moving_mean, moving_variance; all four have the same shape, so a swap raises no error. "
            "Channels with a negative mean come out as NaN.",
        instead="assign the arrays by name",
        seen=_issues("gmalivenko/pytorch2keras#120")),
    Mistake(
        code="BN125", name="mean not subtracted, or added", wrong=wrong.mean_not_subtracted, alone=False,
        line="gamma * x / np.sqrt(variance + epsilon) + beta",
        why="the output is shifted by gamma * mean / sqrt(v + e) in each channel, or by twice that if the mean is added: the sign is "
            "easily lost when the layer is folded into scale * x + offset.",
        instead="subtract moving_mean; folded, offset = beta - scale * mean",
        seen=_issues("tenstorrent/tt-metal!5317", "mdietrichstein/tensorflow-open_nsfw!8")),
    Mistake(
        code="BN126", name="variance never loaded", wrong=wrong.variance_never_loaded, alone=False,
        line="gamma * (x - mean) / np.sqrt(1 + epsilon) + beta",
        why="the mean was loaded, but the variance is still the 1 that the layer was created with: its name was not recognized "
            "(running_std, moving_var, variance).",
        instead="load moving_variance; check that the names of all four arrays were found",
        seen=_issues("zhengyang-wang/Deeplab-v2--ResNet-101--Tensorflow#46", "keras-team/keras#3957")),
    Mistake(
        code="BN127", name="nothing loaded", wrong=wrong.never_loaded,
        line="1 * (x - 0) / np.sqrt(1 + epsilon) + 0",
        why="gamma is 1, beta 0, mean 0 and variance 1, as in a new layer. The output is nearly the input.",
        instead="load the weights; check the loader's messages about names that were not found",
        seen=(STACK + "47567655", *_issues("tensorflow/tfjs#3776", "tensorflow/tfjs#3004"))),
    Mistake(
        code="BN128", name="each row or sample normalized by itself", wrong=wrong_statistics.rows_by_themselves,
        line="y = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)",
        why="batch norm has one mean and one variance for each channel, collected during training over all samples. Normalizing each row "
            "by its own statistics is layer norm; normalizing each channel of a sample is instance norm.",
        instead="use moving_mean and moving_variance, one number per channel, for all rows",
        seen=(STACK + "46443196", *_issues("keras-team/keras#9522"))),
    Mistake(
        code="BN129", name="called in training mode", wrong=wrong_statistics.called_in_training,
        line="y = layer(x, training=True)",
        why="the model itself calls this layer with training=True, so it normalizes by the mean and variance of the current input: these "
            "numbers are Keras's own for this batch. The stored statistics give different ones.",
        instead="compare with the same batch in the same mode; for an output that does not depend on the rest of the batch, rebuild the "
                "model with training=False and train it that way",
        seen=_issues("tensorflow/tfjs#562", "tensorflow/tfjs#3152", "Dobiasd/frugally-deep#284")),
    Mistake(
        code="BN131", name="gamma left out", wrong=wrong.no_gamma, alone=False,
        line="(x - mean) / np.sqrt(variance + epsilon) + beta",
        why="gamma is a trained factor for each channel; without it, the distance of each output from beta is wrong by that factor.",
        instead="multiply by gamma (it is 1 only if the layer has scale=False and the bundle says null)",
        seen=_issues("keras-team/keras#2772", "rinuboney/ladder#13")),
    Mistake(
        code="BN132", name="beta left out", wrong=wrong.no_beta, alone=False,
        line="gamma * (x - mean) / np.sqrt(variance + epsilon)",
        why="beta is a trained offset for each channel; without it, the output is off by that offset.",
        instead="add beta (it is 0 only if the layer has center=False and the bundle says null)",
        seen=_issues("keras-team/keras#2772", "deeplearning4j/deeplearning4j!5425")),
    Mistake(
        code="BN133", name="gamma and beta swapped", wrong=wrong.gamma_and_beta_swapped, alone=False,
        line="beta * (x - mean) / np.sqrt(variance + epsilon) + gamma",
        why="checkpoints list variables by name, beta before gamma; get_weights() returns gamma before beta. Both have the same shape. "
            "PyTorch calls them weight (gamma) and bias (beta), TensorFlow's tf.nn calls them scale and offset.",
        instead="assign the arrays by name: gamma is the factor",
        seen=_issues("tensorflow/tensorflow#55444", "qualcomm/aimet#85", "d2l-ai/d2l-zh!534")),
    Mistake(
        code="BN134", name="beta inside the bracket", wrong=wrong.beta_inside, alone=False,
        line="gamma * ((x - mean) / np.sqrt(variance + epsilon) + beta)",
        why="beta is added after the multiplication by gamma; inside the bracket it is multiplied as well.",
        instead="multiply first, then add beta",
        seen=_issues("rinuboney/ladder#13")),
    Mistake(
        code="BN135", name="1 + gamma", wrong=wrong.one_plus_gamma,
        line="(1 + gamma) * (x - mean) / np.sqrt(variance + epsilon) + beta",
        why="some implementations store gamma - 1, so that weight decay pulls toward 1. Keras stores gamma itself.",
        instead="multiply by gamma",
        seen=_issues("NVIDIA/TransformerEngine#577", "NVIDIA/TransformerEngine!139")),
    Mistake(
        code="BN136", name="the sign of gamma lost", wrong=wrong.absolute_gamma,
        line="np.abs(gamma) * (x - mean) / np.sqrt(variance + epsilon) + beta",
        why="a negative gamma is legitimate: it is the result of training. Code that takes it for a standard deviation, or an optimizer "
            "pass that needs it positive, mirrors or flattens these channels.",
        instead="keep gamma as it is",
        seen=("https://discuss.ai.google.dev/t/batchnormalization-weights/31428", *_issues("Samsung/ONE!4789", "LeelaChessZero/lc0!779"))),
    Mistake(
        code="BN137", name="arrays shifted by one that is not there", wrong=wrong.arrays_shifted,
        line="beta * (x - variance) / np.sqrt(1 + epsilon) + mean",
        why="a layer with scale=False has no gamma and one with center=False has no beta, so its list of arrays is shorter. Code that "
            "assigns them in order takes beta for gamma, the mean for beta, and so on.",
        instead="check scale and center first; the bundle contains null for an absent parameter",
        seen=_issues("apache/tvm#4149", "fastmachinelearning/hls4ml#720", "Idein/nnoir!98")),
    Mistake(
        code="BN138", name="the four arrays in another order", wrong=wrong.arrays_reordered,
        line="mean * (x - gamma) / np.sqrt(beta + epsilon) + variance",
        why="Keras's order is gamma, beta, moving_mean, moving_variance. Caffe conversions, and the order of computation, use mean, "
            "variance, gamma, beta. All four have the same shape, so there is no error message.",
        instead="assign the arrays by name",
        seen=(STACK + "57087273",
              *_issues("Vladkryvoruchko/PSPNet-Keras-tensorflow#23", "keras-team/keras!3248", "tensorflow/tensorflow#41150"))),
    Mistake(
        code="BN139", name="divided by gamma", wrong=wrong.divided_by_gamma,
        line="(x - mean) / (gamma * np.sqrt(variance + epsilon)) + beta",
        why="gamma is a factor, not a divisor. A folded offset computed from beta / gamma is right unless a gamma is 0: that channel "
            "comes out as NaN.",
        instead="multiply by gamma; offset = beta - scale * mean needs no division by it",
        seen=(GITHUB + "lwtnn/lwtnn/blob/master/converters/keras_v2_layer_converters.py",)),
    Mistake(
        code="BN140", name="beta subtracted", wrong=wrong.beta_subtracted, alone=False,
        line="gamma * (x - mean) / np.sqrt(variance + epsilon) - beta",
        why="the sign of the offset was lost; the output is off by twice beta.",
        instead="add beta",
        seen=_issues("tensorflow/tensorflow#6736")),
    Mistake(
        code="BN141", name="wrong axis", wrong=wrong.wrong_axis, alone=False,
        line="gamma[:, None] * (x - mean[:, None]) / np.sqrt(variance[:, None] + epsilon) + beta[:, None]",
        why="the parameters run along the channel axis. If another axis has the same length, there is no error message.",
        instead="broadcast along the layer's axis (the bundle contains it): -1 for channels last, 1 for channels first",
        seen=_issues("keras-team/keras#1517", "DCASE-REPO/dcase2018_baseline#18", "deeplearning4j/deeplearning4j!4706")),
    Mistake(
        code="BN142", name="channels last taken for channels first, or the reverse", wrong=wrong.wrong_layout, alone=False,
        line="x.reshape(-1, channels)  # of an array in the layout (batch, channels, height, width)",
        why="Keras's arrays are (batch, height, width, channels) by default, PyTorch's are (batch, channels, height, width). A buffer read "
            "in the other order assigns numbers to the wrong channels.",
        instead="transpose the input, or compute the channel of element i according to the layout: i % channels, or i // (height * width) "
                "% channels",
        seen=_issues("onnx/keras-onnx#92", "gmalivenko/onnx2keras#172", "apple/coremltools#603", "keras-team/keras#10648")),
    Mistake(
        code="BN143", name="parameters in another order of channels", wrong=wrong.channels_reordered, alone=False,
        line="gamma[::-1] * (x - mean[::-1]) / np.sqrt(variance[::-1] + epsilon) + beta[::-1]",
        why="each channel has the parameters of another one: reversed (RGB and BGR), off by one, interleaved by groups, or sorted.",
        instead="keep the order in which the bundle lists the channels",
        seen=_issues("mdietrichstein/tensorflow-open_nsfw!8", "heuritech/convnets-keras#28", "sharathadavanne/seld-dcase2021#8")),
    Mistake(
        code="BN144", name="channels of the result in another order", wrong=wrong.result_reordered,
        line="right[..., ::-1]",
        why="the numbers are right but belong to other channels.",
        instead="undo the reordering (RGB and BGR, groups), then compare channel by channel",
        seen=_issues("gmalivenko/onnx2keras#172", "microsoft/CNTK#3311")),
    Mistake(
        code="BN145", name="parameters of another layer", wrong=wrong.other_layer,
        line="right, with gamma, beta, mean and variance of another layer of the model",
        why="layers of one model often have the same number of channels. Sorting by name puts bn_10 before bn_2, a nested model lists all "
            "trainable arrays before all statistics, and the counter in a name continues from earlier models of the session: the arrays "
            "then belong to another layer.",
        instead="match layers by their full path",
        seen=_issues("tensorflow/tensorflow#41150", "keras-team/keras#12619", "leondgarse/keras_efficientnet_v2#2", "tensorflow/tfjs#755")),
    Mistake(
        code="BN146", name="parameters of another checkpoint", example=wrong.another_checkpoint,
        line="right, with gamma, beta, mean and variance of another training run or epoch",
        why="some channels agree to the last bit and others do not, as after some more training, a partial load, or a damaged copy.",
        instead="export from the checkpoint that you compare with; bn-verify BUNDLE MODEL lists what differs",
        seen=_issues("leondgarse/keras_efficientnet_v2#2", "tensorflow/tensorflow#34950", "deeplearning4j/deeplearning4j#3167")),
    Mistake(
        code="BN147", name="moving averages of the variables, or the variables without them", example=wrong.moving_averages,
        line="right, with gamma, beta, mean and variance of X/ExponentialMovingAverage instead of X",
        why="the checkpoint contains each variable twice: its value after the last step, and its average over the steps (tf.train."
            "ExponentialMovingAverage). The numbers fit the other one of these two sets.",
        instead="bn-export --ema yes reads the averages, --ema no reads the variables; use the set that your program restores",
        seen=_issues("lukemelas/EfficientNet-PyTorch#315", "tensorpack/tensorpack#880")),
    Mistake(
        code="BN151", name="activation applied before", wrong=wrong.activation_before, alone=False,
        line="gamma * (np.maximum(x, 0) - mean) / np.sqrt(variance + epsilon) + beta",
        why="the model's order is convolution, batch norm, activation; here the activation came before the batch norm.",
        instead="keep the order of the model's layers; compare the input of the batch norm itself",
        seen=_issues("keras-team/keras#4618", "keras-team/keras#1802", "delta-onera/delta_tb#1")),
    Mistake(
        code="BN152", name="activation applied after", wrong=wrong.activation_after, alone=False,
        line="np.maximum(gamma * (x - mean) / np.sqrt(variance + epsilon) + beta, 0)",
        why="the output includes the activation that follows the layer; the batch norm itself may be right.",
        instead="compare the output before the activation",
        seen=_issues("fenwickslab/fenwicks#2", "pochih/FCN-pytorch#21")),
    Mistake(
        code="BN153", name="applied twice", wrong=wrong.applied_twice,
        line="y = batch_norm(x); y = batch_norm(y)",
        why="the layer was folded into the convolution before it and is applied again, or the graph contains it twice.",
        instead="remove the layer after folding it, or do not fold it",
        seen=_issues("apple/coremltools#153", "CODAIT/graph_def_editor#15")),
    Mistake(
        code="BN154", name="not applied: folded into the layer before, or skipped", wrong=wrong.not_applied,
        line="x",
        why="the output equals the input. An optimizer folded the layer into the layer before it, whose output is then already normalized, "
            "or the layer was skipped as unknown.",
        instead="compare a tensor after the batch norm, or export the model before it is optimized",
        seen=_issues("onnx/onnxmltools#323", "plaidml/plaidml#1940", "tensorflow/tensorflow#25170")),
    Mistake(
        code="BN155", name="offset of the folded form wrong", wrong=wrong.folded_offset,
        line="gamma / np.sqrt(variance + epsilon) * x + (beta - mean)",
        why="the folded layer is scale * x + offset with scale = gamma / sqrt(v + e) and offset = beta - scale * mean; the mean has to be "
            "scaled like x.",
        instead="offset = beta - gamma * mean / np.sqrt(variance + epsilon)",
        seen=("https://discuss.pytorch.org/t/here-is-a-question-about-fuse-torch-nn-batchnorm2d/139598",
              *_issues("vlfeat/matconvnet#772", "tenstorrent/tt-metal!5317"))),
    Mistake(
        code="BN161", name="parameters in float16", wrong=wrong.parameters_in_float16,
        line="right, with gamma.astype(np.float16) and so on",
        why="float16 has 11 significant bits and a range from 6e-8 to 65504: the relative error of parameters is up to 5e-4, that of small "
            "variances is larger, and large variances become infinite.",
        instead="keep batch norm's parameters in float32, also in a float16 model",
        seen=_issues("apple/coreai-torch!54", "Oneflow-Inc/oneflow!9388")),
    Mistake(
        code="BN162", name="parameters in bfloat16", wrong=wrong.parameters_in_bfloat16,
        line="right, with gamma, beta, mean and variance rounded to bfloat16",
        why="bfloat16 has 8 significant bits: the relative error of parameters is up to 4e-3.",
        instead="keep batch norm's parameters in float32",
        seen=_issues("Oneflow-Inc/oneflow!9388", "apache/mxnet#9916")),
    Mistake(
        code="BN163", name="parameters in int8", wrong=wrong.parameters_in_int8,
        line="right, with np.rint(gamma / step) * step, step = abs(gamma).max() / 127",
        why="with one step size for all channels, small parameters are only a few steps or none; a small variance becomes 0.",
        instead="leave batch norm's parameters out of quantization, or quantize each channel",
        seen=_issues("tensorflow/tensorflow#25170", "intel/webml-polyfill#240")),
    Mistake(
        code="BN164", name="arithmetic in half precision", example=wrong.float16_arithmetic,
        line="right, with x, the parameters and each step in float16 (or bfloat16)",
        why="rounding in half precision explains the differences; rounding in the layer's own type does not.",
        instead="compute batch norm in float32 and round the result",
        seen=_issues("apple/coreai-torch!54", "microsoft/tensorflow-directml-plugin!321", "chainer/chainer#6609")),
    Mistake(
        code="BN165", name="parameters copied from a print-out", wrong=wrong.parameters_from_print,
        line="right, with np.round(gamma, 4) and so on",
        why="a printed array shows 4 (PyTorch) or 8 (NumPy) digits after the decimal point; a variance of 0.0004365 is printed as 0.0004.",
        instead="take the numbers from the bundle, which preserves every bit",
        seen=("https://gitlab.nrp-nautilus.io/fastmachinelearning/hls4ml/-/merge_requests/190", STACK + "41200581")),
)

BY_CODE = {mistake.code: mistake for mistake in MISTAKES}


def find(code: str) -> Mistake:
    """The row of a code. Raises: UsageError."""
    if code.upper() not in BY_CODE:
        raise UsageError(f"there is no mistake {code!r}", hint="bn-diagnose --list shows the codes")
    return BY_CODE[code.upper()]


def explain(mistake: Mistake) -> str:
    """A row as text."""
    seen = "\n         ".join(mistake.seen)
    return "\n".join([f"{mistake.code}  {mistake.name}", "", *advice(mistake), f"right    {RIGHT}", f"seen     {seen}", ""])


def advice(mistake: Mistake) -> list[str]:
    """What to know about a mistake, in lines that fit a terminal; code is not wrapped."""
    why, instead = (textwrap.fill(text, MAX_WIDTH, initial_indent=f"{label:9}", subsequent_indent=" " * 9, break_long_words=False,
                                  break_on_hyphens=False) for label, text in (("why", mistake.why), ("instead", mistake.instead)))
    return [f"written  {mistake.line}", *why.splitlines(), *instead.splitlines()]
