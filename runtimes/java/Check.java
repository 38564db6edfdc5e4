import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/** Runs the tests in a bundle: {@code java -cp gson.jar:. Check bundle.json}. Exit code 1 where a number is off by more than the bound. */
public final class Check {
    private static final Map<String, double[]> UNIT_AND_TINY = Map.of("float16", new double[] {0x1p-11, 0x1p-14},
            "bfloat16", new double[] {0x1p-8, 0x1p-126}, "float32", new double[] {0x1p-24, 0x1p-126}, "float64", new double[] {0x1p-53, 0x1p-1022});
    private static long tests, numbers, wrong;
    private static double worst;

    public static void main(String[] arguments) throws IOException {
        String text = Files.readString(Path.of(arguments[0]));
        JsonObject bundle = BatchNorm.parse(text);
        Map<String, BatchNorm> layers = BatchNorm.load(text);
        for (JsonElement element : bundle.getAsJsonArray("layers")) {
            JsonObject entry = element.getAsJsonObject();
            BatchNorm layer = layers.get(entry.get("path").getAsString());
            if (entry.has("vectors")) rows(layer, entry.getAsJsonObject("vectors"));
            if (!entry.has("cases")) continue;
            for (JsonElement test : entry.getAsJsonArray("cases")) run(layer, test.getAsJsonObject(), layer.axis);
        }
        long accepted = bundle.has("refuse") ? bundle.getAsJsonArray("refuse").asList().stream().filter(Check::accepts).count() : 0;
        System.out.printf(Locale.ROOT, "java: %d layers, %d tests, %d numbers, %d wrong, worst %.2f ulp%n", layers.size(), tests, numbers, wrong, worst);
        System.exit(wrong > 0 || accepted > 0 || numbers == 0 ? 1 : 0);
    }

    private static boolean accepts(JsonElement bad) {
        try {
            BatchNorm.load(bad.getAsJsonObject().get("text").getAsString());
        } catch (IllegalArgumentException refused) {
            return false;
        }
        System.out.println("not refused: " + bad.getAsJsonObject().get("why"));
        return true;
    }

    /** The vectors are rows: as if the parameters ran along all axes but the first. */
    private static void rows(BatchNorm layer, JsonObject vectors) {
        JsonObject test = new JsonObject();
        JsonArray shape = new JsonArray();
        shape.add(vectors.getAsJsonArray("input").size());
        for (int size : layer.shape) shape.add(size);
        test.add("shape", shape);
        for (String key : new String[] {"input", "output"}) {
            JsonArray flat = new JsonArray();
            for (JsonElement row : vectors.getAsJsonArray(key)) flat.addAll(row.getAsJsonArray());
            test.add(key, flat);
        }
        run(layer, test, IntStream.rangeClosed(1, layer.shape.length).toArray());
    }

    private static void run(BatchNorm layer, JsonObject test, int[] axis) {
        double[] x = numbers(test, "input", layer.dtype), want = numbers(test, "output", layer.dtype);
        int[] shape = elements(test, "shape").mapToInt(JsonElement::getAsInt).toArray();
        int[] channel = layer.channelOfEach(shape, axis);
        double[] got = axis == layer.axis ? applied(layer, x, shape) : IntStream.range(0, x.length).mapToDouble(
            i -> BatchNorm.roundTo(layer.one(channel[i], x[i]), layer.dtype)).toArray();
        for (int i = 0; i < x.length; i++) compare(layer, channel[i], x[i], got[i], want[i]);
        tests++;
    }

    private static double[] applied(BatchNorm layer, double[] x, int[] shape) {
        double[] wide = x.clone();
        if (layer.dtype.equals("float64")) {
            layer.apply(wide, shape);
            return wide;
        }
        float[] narrow = new float[x.length];
        for (int i = 0; i < x.length; i++) narrow[i] = (float) x[i];
        layer.apply(narrow, shape);
        for (int i = 0; i < x.length; i++) wide[i] = narrow[i];
        return wide;
    }

    private static Stream<JsonElement> elements(JsonObject test, String key) {
        return test.getAsJsonArray(key).asList().stream();
    }

    private static double[] numbers(JsonObject test, String key, String dtype) {
        return elements(test, key).mapToDouble(value -> BatchNorm.roundTo(value.getAsDouble(), dtype)).toArray();
    }

    private static void compare(BatchNorm layer, int c, double x, double got, double want) {
        double unit = UNIT_AND_TINY.get(layer.dtype)[0], tiny = UNIT_AND_TINY.get(layer.dtype)[1];
        double a = Math.abs(layer.gamma[c]) / layer.root[c], error = Math.abs(got - want);
        numbers++;
        if (!(error <= 16 * unit * (a * Math.abs(x) + a * Math.abs(layer.movingMean[c]) + Math.abs(layer.beta[c])) + tiny)) wrong++;
        double step = 2 * unit * Math.scalb(1.0, Math.getExponent(Math.max(Math.abs(want), tiny)));
        if (layer.dtype.equals("float32")) worst = Math.max(worst, error / step);
    }
}
