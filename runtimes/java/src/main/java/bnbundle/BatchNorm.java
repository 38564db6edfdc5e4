package bnbundle;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Batch normalization in inference from a bundle, Java 17, without dependencies.
 *
 * <pre>{@code
 * Map<String, BatchNorm> layers = BatchNorm.load(Files.readAllBytes(Path.of("bundle.json")));
 * layers.get("encoder/bn_1").apply(x, shape);             // x: float[] or double[], row-major, changed in place
 * }</pre>
 *
 * The format is described in docs/format.md of bn-export.
 */
public final class BatchNorm {
    private static final String FORMULA = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta";
    private static final int MAX_AXES = 8;
    /** The largest rank that is assumed where the bundle has no ndim. */
    private static final int ANY_RANK = 32;

    public final String path, dtype;
    /** For each entry of shape the axis of the input it runs along. */
    public final int[] axis, shape;
    /** Rank of the input with its batch axis; 0: any. */
    public final int ndim;
    public final int channels;
    public final double epsilon;
    /** An absent gamma is all 1, an absent beta all 0. */
    public final double[] gamma, beta, movingMean, root;

    /** The layers of a bundle by path, in the model's order. Throws IllegalArgumentException for what breaks the format. */
    public static Map<String, BatchNorm> load(byte[] utf8) {
        return load(parse(utf8));
    }

    /** Likewise for text. */
    public static Map<String, BatchNorm> load(String text) {
        return load(parse(text));
    }

    private static Map<String, BatchNorm> load(Object document) {
        require(document instanceof Map<?, ?> bundle && "bn-bundle".equals(bundle.get("format")),
                "this is not a bundle: expected \"format\": \"bn-bundle\"");
        Map<?, ?> bundle = (Map<?, ?>) document;
        require(get(bundle, "version", Double.class) == 1, "expected version 1 of the format");
        require(get(bundle, "formula", String.class).equals(FORMULA), "expected the formula " + FORMULA);
        get(bundle, "producer", Map.class);
        get(bundle, "source", Map.class);
        get(bundle, "digest", String.class);
        Map<String, BatchNorm> layers = new LinkedHashMap<>();
        for (Object entry : get(bundle, "layers", List.class)) {
            require(entry instanceof Map, "layers: expected objects");
            BatchNorm layer = new BatchNorm((Map<?, ?>) entry);
            require(layers.put(layer.path, layer) == null, layer.path + ": this path occurs twice");
        }
        return layers;
    }

    private BatchNorm(Map<?, ?> entry) {
        path = get(entry, "path", String.class);
        dtype = get(entry, "dtype", String.class);
        get(entry, "name", String.class);
        get(entry, "class_name", String.class);
        if (!isNull(entry, "momentum")) get(entry, "momentum", Double.class);
        epsilon = get(entry, "epsilon", Double.class);
        require(epsilon >= 0 && epsilon <= Float.MAX_VALUE, path + ": expected an epsilon of 0 or more that fits float, got " + epsilon);
        axis = integers(get(entry, "axis", List.class));
        shape = integers(get(entry, "shape", List.class));
        ndim = isNull(entry, "ndim") ? 0 : integer(get(entry, "ndim", Double.class));
        require(isNull(entry, "ndim") || ndim > 0, path + ": expected a rank of 1 or more, got " + ndim);
        checkAxes();
        channels = countOfChannels(get(entry, "moving_mean", List.class).size());
        movingMean = numbers(get(entry, "moving_mean", List.class), "moving_mean");
        root = numbers(get(entry, "moving_variance", List.class), "moving_variance");
        gamma = numbers(entry, "gamma", 1.0);
        beta = numbers(entry, "beta", 0.0);
        for (int c = 0; c < channels; c++) {
            require(root[c] + epsilon > 0, path + ": expected moving_variance + epsilon above 0 in each channel");
            root[c] = Math.sqrt(root[c] + epsilon);
        }
        if (entry.containsKey("vectors")) checkVectors(get(entry, "vectors", Map.class));
    }

    private BatchNorm(BatchNorm other, int[] axis) {
        path = other.path;
        dtype = other.dtype;
        this.axis = axis.clone();
        shape = other.shape;
        ndim = 0;
        channels = other.channels;
        epsilon = other.epsilon;
        gamma = other.gamma;
        beta = other.beta;
        movingMean = other.movingMean;
        root = other.root;
    }

    /** This layer for inputs with the channels along other axes, of any rank. */
    public BatchNorm withAxis(int... axis) {
        return new BatchNorm(this, axis);
    }

    private void checkAxes() {
        require(axis.length == shape.length && axis.length > 0 && axis.length <= MAX_AXES, path + ": axis and shape: expected two lists of one length");
        int rank = ndim == 0 ? ANY_RANK : ndim;
        Set<Integer> seen = new HashSet<>();
        for (int a : axis) {
            require(a != 0 && a > -rank && a < rank, path + ": axis " + a + " does not fit an input of rank " + rank + "; axis 0 is the batch");
            require(seen.add(ndim > 0 && a < 0 ? a + ndim : a), path + ": axis names one axis twice");
        }
    }

    /** The product of shape, which the lists of the file have to have before anything of this size is made. */
    private int countOfChannels(int given) {
        int count = 1;
        for (int size : shape) {
            require(size > 0 && size <= given / count, path + ": shape does not fit the " + given + " numbers of moving_mean");
            count *= size;
        }
        return count;
    }

    /** Normalizes x, the numbers of an input of this shape in row-major order, in place: in double, rounded once. */
    public void apply(float[] x, int[] shape) {
        int[] channel = channelOfEach(x.length, shape);
        for (int i = 0; i < x.length; i++) x[i] = (float) one(channel[i], x[i]);
    }

    /** Likewise for double. */
    public void apply(double[] x, int[] shape) {
        int[] channel = channelOfEach(x.length, shape);
        for (int i = 0; i < x.length; i++) x[i] = one(channel[i], x[i]);
    }

    /** The formula for one number of one channel. */
    public double one(int c, double x) {
        return gamma[c] * (x - movingMean[c]) / root[c] + beta[c];
    }

    /** The channel of each of so many numbers of an input of this shape, in row-major order. Throws IllegalArgumentException where it does not fit. */
    public int[] channelOfEach(int count, int[] shape) {
        require(ndim == 0 || shape.length == ndim || Arrays.stream(axis).allMatch(a -> a < 0), path + ": axis " + Arrays.toString(axis)
                + " is that of an input of rank " + ndim + ", got the shape " + Arrays.toString(shape) + "; use withAxis with the axis of its channels, e.g. -1");
        int[] step = new int[shape.length];
        for (int d = 0; d < axis.length; d++) {
            int a = axis[d] < 0 ? axis[d] + shape.length : axis[d];
            require(a >= 0 && a < shape.length && shape[a] == this.shape[d] && step[a] == 0, path + ": expected " + Arrays.toString(this.shape)
                    + " channels along axis " + Arrays.toString(axis) + ", got an input of shape " + Arrays.toString(shape));
            step[a] = Arrays.stream(this.shape).skip(d + 1).reduce(1, (p, q) -> p * q);
        }
        require(product(shape) == count, path + ": " + count + " numbers are not of shape " + Arrays.toString(shape));
        int[] channel = {0};
        for (int a = 0; a < shape.length; a++) {
            int[] wider = new int[channel.length * shape[a]];
            for (int i = 0; i < wider.length; i++) wider[i] = channel[i / shape[a]] + i % shape[a] * step[a];
            channel = wider;
        }
        return channel;
    }

    /** The count of numbers of a shape; -1 where a size is negative or the count is no int. */
    private static int product(int[] shape) {
        long count = 1;
        for (int size : shape) {
            if (size < 0 || size > 0 && count > Integer.MAX_VALUE / size) return -1;
            count *= size;
        }
        return (int) count;
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

    /** absent stands for each number of a parameter that is null. */
    private double[] numbers(Map<?, ?> entry, String name, double absent) {
        if (!isNull(entry, name)) return numbers(get(entry, name, List.class), name);
        double[] values = new double[channels];
        Arrays.fill(values, absent);
        return values;
    }

    private double[] numbers(List<?> list, String name) {
        require(list.size() == channels, path + ": " + name + ": expected " + channels + " numbers, got " + list.size());
        double[] values = new double[channels];
        for (int c = 0; c < channels; c++) {
            require(list.get(c) instanceof Double, path + ": " + name + ": expected numbers");
            values[c] = roundTo((Double) list.get(c), dtype);
            require(Double.isFinite(values[c]), path + ": " + name + " overflows " + dtype);
        }
        return values;
    }

    private void checkVectors(Map<?, ?> vectors) {
        List<?> input = get(vectors, "input", List.class), output = get(vectors, "output", List.class);
        require(!input.isEmpty() && input.size() == output.size(), path + ": vectors: expected as many rows of output as of input");
        for (List<?> rows : List.of(input, output)) {
            for (Object row : rows) {
                require(row instanceof List, path + ": vectors: expected rows of numbers");
                numbers((List<?>) row, "vectors");
            }
        }
    }

    private static boolean isNull(Map<?, ?> entry, String key) {
        return entry.containsKey(key) && entry.get(key) == null;
    }

    private static <T> T get(Map<?, ?> entry, String key, Class<T> type) {
        Object value = entry.get(key);
        require(type.isInstance(value), key + ": expected a value of type " + type.getSimpleName() + ", got " + (entry.containsKey(key) ? value : "nothing"));
        return type.cast(value);
    }

    private static int integer(Object value) {
        require(value instanceof Double number && number == (int) (double) number, "axis, shape and ndim: expected integers, got " + value);
        return (int) (double) (Double) value;
    }

    private static int[] integers(List<?> list) {
        return list.stream().mapToInt(BatchNorm::integer).toArray();
    }

    private static void require(boolean right, String otherwise) {
        if (!right) throw new IllegalArgumentException(otherwise);
    }

    /**
     * The value of a strict JSON document: UTF-8, no key twice in one object, every number finite, at most 200 levels. Objects are maps, arrays
     * lists, numbers Double. Throws IllegalArgumentException.
     */
    static Object parse(byte[] utf8) {
        try {
            return parse(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(utf8)).toString());
        } catch (CharacterCodingException error) {
            throw new IllegalArgumentException("this is not JSON: expected UTF-8", error);
        }
    }

    static Object parse(String text) {
        return new Json(text).document();
    }

    private static final class Json {
        private static final int MAX_DEPTH = 200;
        private final String text;
        private int at = 0;

        Json(String text) {
            this.text = text;
        }

        Object document() {
            Object value = value(0);
            next();
            expect(at == text.length(), "nothing after the document");
            return value;
        }

        private static final char END = '\uffff'; // no character of a text

        private char peek() {
            return at < text.length() ? text.charAt(at) : END;
        }

        /** The next character that is no white space. */
        private char next() {
            while (" \t\r\n".indexOf(peek()) >= 0) at++;
            return peek();
        }

        private boolean take(char wanted) {
            if (next() != wanted) return false;
            at++;
            return true;
        }

        private void expect(boolean right, String what) {
            if (!right) throw new IllegalArgumentException("this is not JSON of a bundle: expected " + what + " at character " + at);
        }

        private Object value(int depth) {
            char first = next();
            if (first == '[' || first == '{') {
                expect(depth < MAX_DEPTH, "at most " + MAX_DEPTH + " levels");
                at++;
                return first == '[' ? list(depth + 1) : object(depth + 1);
            }
            if (first == '"') return string();
            if (first == '-' || isDigit(first)) return number();
            if (word("true")) return true;
            if (word("false")) return false;
            expect(word("null"), "a value");
            return null;
        }

        private boolean word(String word) {
            boolean found = text.startsWith(word, at);
            if (found) at += word.length();
            return found;
        }

        private List<Object> list(int depth) {
            List<Object> values = new ArrayList<>();
            if (take(']')) return values;
            do values.add(value(depth)); while (take(','));
            expect(take(']'), "]");
            return values;
        }

        private Map<String, Object> object(int depth) {
            Map<String, Object> values = new LinkedHashMap<>();
            if (take('}')) return values;
            do {
                expect(next() == '"', "a key");
                String key = string();
                expect(!values.containsKey(key), "each key once in an object, got " + key + " again");
                expect(take(':'), ":");
                values.put(key, value(depth));
            } while (take(','));
            expect(take('}'), "}");
            return values;
        }

        private String string() {
            StringBuilder found = new StringBuilder();
            for (at++; peek() != '"'; at++) {
                expect(at < text.length() && peek() >= ' ', "a string to end");
                found.append(peek() == '\\' ? escaped() : peek());
            }
            at++;
            return found.toString();
        }

        /** The character of an escape; its last one is left to the caller. */
        private char escaped() {
            at++;
            int kind = "\"\\/bfnrt".indexOf(peek());
            if (kind >= 0) return "\"\\/\b\f\n\r\t".charAt(kind);
            expect(peek() == 'u' && at + 4 < text.length(), "an escape");
            int code = 0;
            for (int i = 0; i < 4; i++) {
                at++;
                int digit = peek() < 128 ? Character.digit(peek(), 16) : -1;
                expect(digit >= 0, "a hexadecimal digit");
                code = 16 * code + digit;
            }
            return (char) code;
        }

        private Double number() {
            int start = at;
            if (peek() == '-') at++;
            if (peek() == '0') at++;
            else digits();
            if (peek() == '.') {
                at++;
                digits();
            }
            if (peek() == 'e' || peek() == 'E') {
                at++;
                if (peek() == '+' || peek() == '-') at++;
                digits();
            }
            double value = Double.parseDouble(text.substring(start, at));
            expect(Double.isFinite(value), "a number that fits a double");
            return value;
        }

        private void digits() {
            expect(isDigit(peek()), "a digit");
            while (isDigit(peek())) at++;
        }

        private static boolean isDigit(char c) {
            return c >= '0' && c <= '9';
        }
    }
}
