package bnbundle;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.IntStream;

/**
 * Runs the tests in a bundle: {@code java -cp . bnbundle.Check bundle.json}. Exit code 1 where a number is off by more than the bound, or where
 * something is taken that a reader refuses or refused that it takes.
 */
public final class Check {
    private static final Map<String, double[]> UNIT_AND_TINY = Map.of("float16", new double[] {0x1p-11, 0x1p-14},
            "bfloat16", new double[] {0x1p-8, 0x1p-126}, "float32", new double[] {0x1p-24, 0x1p-126}, "float64", new double[] {0x1p-53, 0x1p-1022});
    private static long tests, numbers, wrong, faults;
    private static double worst;

    private Check() {}

    public static void main(String[] arguments) throws IOException {
        byte[] bytes = Files.readAllBytes(Path.of(arguments[0]));
        Map<?, ?> bundle = (Map<?, ?>) BatchNorm.parse(bytes);
        Map<String, BatchNorm> layers = BatchNorm.load(bytes);
        for (Map<?, ?> entry : objects(bundle, "layers")) {
            BatchNorm layer = layers.get(entry.get("path"));
            if (entry.get("vectors") instanceof Map<?, ?> vectors) rows(layer, vectors);
            for (Map<?, ?> test : objects(entry, "cases")) {
                run(layer, list(test, "input"), list(test, "output"), integers(list(test, "shape")));
            }
        }
        for (Map<?, ?> entry : objects(bundle, "refuse")) say("not refused", entry, accepts(() -> BatchNorm.load((String) entry.get("text"))));
        for (Map<?, ?> entry : objects(bundle, "accept")) say("not accepted", entry, !accepts(() -> BatchNorm.load((String) entry.get("text"))));
        for (Map<?, ?> entry : objects(bundle, "refuse_inputs")) {
            float[] x = new float[((Double) entry.get("count")).intValue()];
            say("not refused", entry, accepts(() -> layers.get(entry.get("layer")).apply(x, integers(list(entry, "shape")))));
        }
        System.out.printf(Locale.ROOT, "java: %d layers, %d tests, %d numbers, %d wrong, worst %.2f ulp%n", layers.size(), tests, numbers, wrong, worst);
        System.exit(wrong > 0 || faults > 0 || numbers == 0 ? 1 : 0);
    }

    private static void say(String what, Map<?, ?> entry, boolean isWrong) {
        if (!isWrong) return;
        faults++;
        System.out.println(what + ": " + entry.get("why"));
    }

    private static boolean accepts(Runnable action) {
        try {
            action.run();
            return true;
        } catch (IllegalArgumentException refused) {
            return false;
        }
    }

    private static List<?> list(Map<?, ?> entry, String key) {
        return entry.get(key) instanceof List<?> found ? found : List.of();
    }

    private static List<Map<?, ?>> objects(Map<?, ?> entry, String key) {
        List<Map<?, ?>> found = new ArrayList<>();
        for (Object value : list(entry, key)) found.add((Map<?, ?>) value);
        return found;
    }

    private static int[] integers(List<?> values) {
        return values.stream().mapToInt(value -> ((Double) value).intValue()).toArray();
    }

    /** The vectors are rows: as if the parameters ran along all axes but the first. */
    private static void rows(BatchNorm layer, Map<?, ?> vectors) {
        List<Object> input = new ArrayList<>(), output = new ArrayList<>();
        for (Object row : list(vectors, "input")) input.addAll((List<?>) row);
        for (Object row : list(vectors, "output")) output.addAll((List<?>) row);
        int[] shape = IntStream.concat(IntStream.of(list(vectors, "input").size()), IntStream.of(layer.shape)).toArray();
        run(layer.withAxis(IntStream.rangeClosed(1, layer.shape.length).toArray()), input, output, shape);
    }

    private static void run(BatchNorm layer, List<?> input, List<?> output, int[] shape) {
        double[] x = rounded(input, layer.dtype), want = rounded(output, layer.dtype), got = applied(layer, x, shape);
        int[] channel = layer.channelOfEach(x.length, shape);
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

    private static double[] rounded(List<?> values, String dtype) {
        return values.stream().mapToDouble(value -> BatchNorm.roundTo((Double) value, dtype)).toArray();
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
