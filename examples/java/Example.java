import bnbundle.BatchNorm;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

class Example {
    public static void main(String[] args) throws IOException {
        float[] x = {0.5f, -0.25f, 1, 2};
        BatchNorm.load(Files.readAllBytes(Path.of(args[0]))).get("head_bn").apply(x, new int[] {1, 4});
        System.out.println(x[0] + " " + x[1] + " " + x[2] + " " + x[3]);
    }
}
