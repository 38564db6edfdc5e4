import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.TypeAdapter;
import com.google.gson.Gson;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonToken;
import java.io.IOException;
import java.io.StringReader;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Batch normalisation in inference from a bundle, Java 17, on Gson.
 *
 * <pre>{@code
 * Map<String, BatchNorm> layers = BatchNorm.load(text);   // text: the content of bundle.json
 * layers.get("encoder/bn_1").apply(x, shape);             // x: float[] or double[], row-major, changed in place
 * }</pre>
 *
 * The format is described in docs/format.md of bn-export.
 */
public final class BatchNorm {
    public final String path, dtype;
    public final int[] axis, shape;
    public final int channels;
    public final double epsilon;
    /** An absent gamma is all 1, an absent beta all 0. */
    public final double[] gamma, beta, movingMean, root;

    /** The layers of a bundle by path, in the model's order. Throws IllegalArgumentException for what is no bundle. */
    public static Map<String, BatchNorm> load(String text) {
        JsonObject bundle = parse(text);
        try {
            require(bundle.get("format").getAsString().equals("bn-bundle"), "this is not a bundle");
            require(bundle.get("version").getAsString().equals("1"), "a version of the format that is not known");
            Map<String, BatchNorm> layers = new LinkedHashMap<>();
            for (JsonElement entry : bundle.getAsJsonArray("layers")) {
                BatchNorm layer = new BatchNorm(entry.getAsJsonObject());
                require(layers.put(layer.path, layer) == null, layer.path + ": this path occurs twice");
            }
            return layers;
        } catch (NullPointerException | ClassCastException | IllegalStateException | UnsupportedOperationException error) {
            throw new IllegalArgumentException("a value is missing or of another type: " + error.getMessage(), error);
        }
    }

    /** Strict JSON, one document; Gson's own parseString takes NaN and more. */
    static JsonObject parse(String text) {
        try {
            JsonReader reader = new JsonReader(new StringReader(text));
            TypeAdapter<JsonElement> adapter = new Gson().getAdapter(JsonElement.class);
            JsonElement value = adapter.read(reader);
            require(value.isJsonObject() && reader.peek() == JsonToken.END_DOCUMENT, "this is not one JSON object");
            return value.getAsJsonObject();
        } catch (IOException | JsonParseException error) {
            throw new IllegalArgumentException("this is not JSON: " + error.getMessage(), error);
        }
    }

    private BatchNorm(JsonObject entry) {
        path = entry.get("path").getAsString();
        dtype = entry.get("dtype").getAsString();
        axis = integers(entry.get("axis"));
        shape = integers(entry.get("shape"));
        channels = product(shape, 0);
        require(axis.length == shape.length && axis.length > 0 && channels > 0, path + ": axis and shape do not fit each other");
        require(Arrays.stream(axis).allMatch(a -> a != 0), path + ": axis 0 is the batch");
        epsilon = number(entry.get("epsilon"));
        gamma = numbers(entry, "gamma", 1.0);
        beta = numbers(entry, "beta", 0.0);
        movingMean = numbers(entry, "moving_mean", Double.NaN);
        root = numbers(entry, "moving_variance", Double.NaN);
        for (int c = 0; c < channels; c++) {
            require(epsilon >= 0 && root[c] + epsilon > 0, path + ": moving_variance + epsilon is not above 0");
            root[c] = Math.sqrt(root[c] + epsilon);
        }
    }

    /** Normalises x, the numbers of an input of this shape in row-major order, in place: in double, rounded once. */
    public void apply(float[] x, int[] shape) {
        int[] channel = channelOfEach(shape);
        require(channel.length == x.length, path + ": the numbers are not of this shape");
        for (int i = 0; i < x.length; i++) x[i] = (float) one(channel[i], x[i]);
    }

    /** Likewise for double. */
    public void apply(double[] x, int[] shape) {
        int[] channel = channelOfEach(shape);
        require(channel.length == x.length, path + ": the numbers are not of this shape");
        for (int i = 0; i < x.length; i++) x[i] = one(channel[i], x[i]);
    }

    /** The formula for one number of one channel. */
    public double one(int c, double x) {
        return gamma[c] * (x - movingMean[c]) / root[c] + beta[c];
    }

    /** The channel of each number of an input of this shape, in row-major order. */
    public int[] channelOfEach(int[] shape) {
        return channelOfEach(shape, axis);
    }

    int[] channelOfEach(int[] shape, int[] axis) {
        int[] step = new int[shape.length];
        for (int d = 0; d < axis.length; d++) {
            int a = axis[d] < 0 ? axis[d] + shape.length : axis[d];
            require(a >= 0 && a < shape.length && shape[a] == this.shape[d], path + ": the shape of the input does not fit");
            step[a] = product(this.shape, d + 1);
        }
        int[] channel = {0};
        for (int a = 0; a < shape.length; a++) {
            int[] wider = new int[Math.multiplyExact(channel.length, shape[a])];
            for (int i = 0; i < wider.length; i++) wider[i] = channel[i / shape[a]] + i % shape[a] * step[a];
            channel = wider;
        }
        return channel;
    }

    /** The number of a dtype that is nearest to a double, half to even; infinite where it overflows. */
    public static double roundTo(double value, String dtype) {
        return switch (dtype) {
            case "float64" -> value;
            case "float32" -> (float) value;
            case "float16" -> roundToBits(value, 10, -24, 65504);
            case "bfloat16" -> roundToBits(value, 7, -133, (2 - 0x1p-7) * 0x1p127);
            default -> throw new IllegalArgumentException("dtype " + dtype + " is not known");
        };
    }

    private static double roundToBits(double value, int bits, int lowest, double largest) {
        int quantum = Math.max(Math.getExponent(value) - bits, lowest);
        double rounded = Math.scalb(Math.rint(Math.scalb(value, -quantum)), quantum);
        return Math.abs(rounded) <= largest ? rounded : Math.copySign(Double.POSITIVE_INFINITY, value);
    }

    /** otherwise stands for each number of an absent array; NaN: it may not be absent. */
    private double[] numbers(JsonObject entry, String name, double otherwise) {
        double[] values = new double[channels];
        JsonElement found = entry.get(name);
        if (found.isJsonNull() && !Double.isNaN(otherwise)) {
            Arrays.fill(values, otherwise);
            return values;
        }
        List<JsonElement> list = found.getAsJsonArray().asList();
        require(list.size() == channels, path + ": " + name + " is not " + channels + " numbers");
        for (int c = 0; c < channels; c++) {
            values[c] = roundTo(number(list.get(c)), dtype);
            require(Double.isFinite(values[c]), path + ": " + name + " overflows " + dtype);
        }
        return values;
    }

    private static double number(JsonElement value) {
        require(value.isJsonPrimitive() && value.getAsJsonPrimitive().isNumber(), "something stands where a number is needed");
        return value.getAsDouble();
    }

    private static int[] integers(JsonElement list) {
        int[] values = list.getAsJsonArray().asList().stream().mapToInt(value -> (int) number(value)).toArray();
        for (int i = 0; i < values.length; i++) require(values[i] == number(list.getAsJsonArray().get(i)), "a size or axis is no integer");
        return values;
    }

    private static int product(int[] sizes, int from) {
        return Arrays.stream(sizes).skip(from).reduce(1, Math::multiplyExact);
    }

    private static void require(boolean right, String otherwise) {
        if (!right) throw new IllegalArgumentException(otherwise);
    }
}
