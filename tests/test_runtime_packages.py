"""The runtimes under the names by which others install them: each is built from its manifest and used by a program of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

import exporter
from exporter.targets import c_header
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import ROOT

sys.path.insert(0, str(ROOT / "runtimes"))
import measure
import measure_flash

RUNTIMES = ROOT / "runtimes"
GO_PATH = "github.com/bn-export/bn-export/runtimes/go"
PATH, SHAPE = "encoder/block_1/bn", [1, 1, 2, 5]  # a layer of the conformance file, and an input of ones


@pytest.fixture(scope="module")
def want():
    """What the layer gives for the first channel of the input."""
    return float(exporter.load(measure.VECTORS)[PATH]([[[[1.0] * 5] * 2]]).ravel()[0])


def need(*programs):
    try:
        measure.need(*programs)
    except measure.Missing as missing:
        pytest.skip(str(missing))


def call(command, folder):
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def near(text, want):
    return float(text) == pytest.approx(want, rel=1e-6)


def test_every_manifest_names_the_version_of_the_package():
    pom = ElementTree.parse(RUNTIMES / "java" / "pom.xml").getroot()
    cargo = (RUNTIMES / "rust" / "Cargo.toml").read_text("utf-8")
    versions = {
        "java": pom.findtext("{*}version"), "rust": re.findall(r'^version = "(.*)"', cargo, re.MULTILINE)[0],
        **{name: json.loads((RUNTIMES / name / file).read_text("utf-8"))["version"]
           for name, file in (("javascript", "package.json"), ("cpp", "vcpkg.json"), ("c", "vcpkg.json"))},
        **{f"{name}/cmake": re.findall(r"VERSION ([\d.]+) LANGUAGES", (RUNTIMES / name / "CMakeLists.txt").read_text("utf-8"))[0]
           for name in ("c", "cpp")}}
    assert set(versions.values()) == {exporter.__version__}, versions
    assert exporter.__version__ in (RUNTIMES / "java" / "README.md").read_text("utf-8")


def test_the_vcpkg_manifests_ask_for_what_cmake_finds():
    for name, found in (("cpp", ["nlohmann-json"]), ("c", [])):
        manifest = json.loads((RUNTIMES / name / "vcpkg.json").read_text("utf-8"))
        cmake = (RUNTIMES / name / "CMakeLists.txt").read_text("utf-8")
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", manifest["name"])
        assert f"project({manifest['name']} " in cmake
        assert manifest.get("dependencies", []) == found == [name.replace("_", "-") for name in re.findall(r"find_package\((\w+)", cmake)
                                                             if f"#     find_package({name}" not in cmake]


def test_python_is_one_file(tmp_path, want):
    shutil.copy(RUNTIMES / "python" / "batchnorm.py", tmp_path)
    (tmp_path / "use.py").write_text(
        f"from batchnorm import load\nprint(load(open({str(measure.VECTORS)!r}, 'rb').read())[{PATH!r}]([1] * 10, {SHAPE})[0])\n")
    assert near(call([sys.executable, "-E", "-s", "-S", "-B", "use.py"], tmp_path), want)


@pytest.mark.thorough("compilers")
def test_npm_installs_the_packed_module(tmp_path, want):
    need("npm", "node")
    call(["npm", "pack", "--silent", "--pack-destination", tmp_path], RUNTIMES / "javascript")
    (tmp_path / "package.json").write_text('{"name": "use", "version": "1.0.0", "private": true}')
    call(["npm", "install", "--silent", "--offline", "--no-audit", "--no-fund", f"./bn-bundle-{exporter.__version__}.tgz"], tmp_path)
    (tmp_path / "use.mjs").write_text(
        'import { readFileSync } from "node:fs";\nimport { load } from "bn-bundle";\n'
        f"const layer = load(readFileSync({str(measure.VECTORS)!r})).get({PATH!r});\n"
        f"console.log(layer.apply(new Float64Array(10).fill(1), {SHAPE})[0]);\n")
    assert near(call(["node", "use.mjs"], tmp_path), want)
    if shutil.which("tsc") is None:
        pytest.skip("tsc (npm install -g typescript) is not installed")
    (tmp_path / "types.mts").write_text(
        'import { load, type Layer } from "bn-bundle";\nexport const layer: Layer | undefined = load("").get("a");\n')
    call(["tsc", "--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "types.mts"], tmp_path)


@pytest.mark.thorough("compilers")
def test_cargo_builds_a_crate_that_depends_on_it(tmp_path, want):
    need("cargo")
    if not list(measure.CRATES.glob("serde_json-*")):
        pytest.skip("the crate serde_json is not installed (Debian: librust-serde-json-dev)")
    shutil.copytree(RUNTIMES / "rust", tmp_path / "rust")
    (tmp_path / "use" / "src").mkdir(parents=True)
    (tmp_path / "use" / "Cargo.toml").write_text(
        '[package]\nname = "use"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\nbn-bundle = { path = "../rust" }\n')
    (tmp_path / "use" / "src" / "main.rs").write_text(
        f"fn main() {{\n    let text = std::fs::read_to_string({json.dumps(str(measure.VECTORS))}).unwrap();\n"
        f"    let mut x = [1f64; 10];\n    bn_bundle::load(&text).unwrap()[{json.dumps(PATH)}].apply(&mut x, &{SHAPE}).unwrap();\n"
        '    println!("{}", x[0]);\n}\n')
    offline = tmp_path / "offline.toml"
    offline.write_text(f'[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "{measure.CRATES}"\n')
    assert near(call(["cargo", "--config", offline, "run", "--offline", "--quiet"], tmp_path / "use"), want)
    packed = call(["cargo", "package", "--list", "--allow-dirty"], tmp_path / "rust").split()
    assert {"Cargo.toml", "README.md", "batchnorm.rs", "check.rs"} <= set(packed)


GO_PROGRAM = """package main

import (
	"fmt"
	"os"

	bnbundle "%s"
)

func main() {
	data, _ := os.ReadFile(os.Args[1])
	layers, err := bnbundle.Load(data)
	if err != nil {
		panic(err)
	}
	x := []float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	if err := bnbundle.Apply(layers[os.Args[2]], x, []int{1, 1, 2, 5}); err != nil {
		panic(err)
	}
	fmt.Println(x[0])
}
"""


@pytest.mark.thorough("compilers")
def test_go_builds_a_module_that_requires_it(tmp_path, want):
    need("go")
    assert (RUNTIMES / "go" / "go.mod").read_text("utf-8").startswith(f"module {GO_PATH}\n")
    (tmp_path / "go.mod").write_text(
        f"module example.com/use\n\ngo 1.18\n\nrequire {GO_PATH} v0.0.0\n\nreplace {GO_PATH} => {RUNTIMES / 'go'}\n")
    (tmp_path / "main.go").write_text(GO_PROGRAM % GO_PATH)
    assert near(call(["go", "run", ".", measure.VECTORS, PATH], tmp_path), want)


@pytest.mark.thorough("compilers")
def test_go_keeps_the_import_path_of_version_0_1_in_a_copy(tmp_path, want):
    need("go")
    shutil.copytree(RUNTIMES / "go", tmp_path / "copy")
    (tmp_path / "copy" / "use").mkdir()
    (tmp_path / "copy" / "use" / "main.go").write_text(GO_PROGRAM % "bnbundle")
    assert near(call(["go", "run", "./use", measure.VECTORS, PATH], tmp_path / "copy"), want)


@pytest.mark.thorough("compilers")
def test_maven_packs_a_jar(tmp_path):
    need("mvn", "java", "javac")
    shutil.copytree(RUNTIMES / "java", tmp_path / "java")
    if subprocess.run(["mvn", "-B", "-q", "-o", "package"], cwd=tmp_path / "java", capture_output=True).returncode:
        call(["mvn", "-B", "-q", "package"], tmp_path / "java")  # a plugin has to be fetched
    jar = tmp_path / "java" / "target" / f"bn-bundle-{exporter.__version__}.jar"
    assert " 0 wrong" in call(["java", "-cp", jar, "bnbundle.Check", measure.VECTORS], tmp_path)
    (tmp_path / "Use.java").write_text(
        "import bnbundle.BatchNorm;\npublic class Use {\n    public static void main(String[] arguments) {\n"
        '        try {\n            BatchNorm.load("{}");\n        } catch (IllegalArgumentException refused) {\n'
        "            System.out.println(refused.getMessage());\n        }\n    }\n}\n")
    assert "not a bundle" in call(["java", "-cp", jar, "Use.java"], tmp_path)


CONSUMER = """cmake_minimum_required(VERSION 3.14)
project(use LANGUAGES {language})
find_package({name} CONFIG REQUIRED)
add_executable(use {source})
target_link_libraries(use PRIVATE {name}::{name})
"""


def installed(name, tmp_path, *options):
    """Configures, builds, tests and installs a runtime with CMake; the folder that it was installed into."""
    call(["cmake", "-S", RUNTIMES / name, "-B", "build", f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'installed'}", *options], tmp_path)
    call(["cmake", "--build", "build"], tmp_path)
    assert "100% tests passed" in call(["ctest", "--test-dir", "build", "--no-tests=error"], tmp_path)
    call(["cmake", "--install", "build"], tmp_path)
    return tmp_path / "installed"


def built_by_cmake(tmp_path, prefix, name, language, source):
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER.format(name=name, language=language, source=source))
    call(["cmake", "-S", ".", "-B", "use-build", f"-DCMAKE_PREFIX_PATH={prefix}"], tmp_path)
    call(["cmake", "--build", "use-build"], tmp_path)
    return tmp_path / "use-build" / "use"


@pytest.mark.thorough("compilers")
def test_cmake_installs_the_c_plus_plus_header(tmp_path, want):
    need("cmake", "g++")
    prefix = installed("cpp", tmp_path)
    (tmp_path / "use.cpp").write_text(
        "#include <batchnorm.hpp>\n#include <cstdio>\n#include <fstream>\n#include <iterator>\nint main() {\n"
        f"    std::ifstream file({json.dumps(str(measure.VECTORS))});\n"
        "    const std::string text{std::istreambuf_iterator<char>(file), {}};\n    std::vector<double> x(10, 1.0);\n"
        f"    bn::load(text).at({json.dumps(PATH)}).apply(x, {{{', '.join(map(str, SHAPE))}}});\n"
        '    std::printf("%.17g\\n", x[0]);\n}\n')
    assert near(call([built_by_cmake(tmp_path, prefix, "bn-bundle", "CXX", "use.cpp")], tmp_path), want)


@pytest.mark.thorough("compilers")
def test_cmake_installs_the_c_header(tmp_path, want):
    need("cmake", "gcc")
    (tmp_path / "layers.h").write_bytes(c_header.write(exporter.load(measure.VECTORS), WriteOptions()))
    prefix = installed("c", tmp_path, f"-DBN_LAYERS={tmp_path / 'layers.h'}")
    (tmp_path / "use.c").write_text(
        '#include <batchnorm.h>\n#include "layers.h"\n#include <stdio.h>\n#include <string.h>\nint main(void) {\n'
        f"    for (int i = 0; i < bn_layer_count; i++)\n        if (!strcmp(bn_layers[i].path, {json.dumps(PATH)}))\n"
        '            printf("%.9g\\n", (float)bn_one(&bn_layers[i], 0, 1.0));\n    return 0;\n}\n')
    assert near(call([built_by_cmake(tmp_path, prefix, "bn-batchnorm", "C", "use.c")], tmp_path), want)


@pytest.mark.thorough("compilers")
def test_arrays_of_integers_do_not_compile_in_c_plus_plus(tmp_path):
    need("g++")
    command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{RUNTIMES / 'cpp'}", "use.cpp"]
    for kind, compiles in (("float", True), ("double", True), ("int", False), ("unsigned char", False)):
        (tmp_path / "use.cpp").write_text(
            f'#include "batchnorm.hpp"\nvoid use(const bn::layer& layer, std::vector<{kind}>& x) {{ layer.apply(x, {{1, 2}}); }}\n')
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode == 0) == compiles, done.stderr
        assert compiles or "the results have fractions" in done.stderr


@pytest.mark.thorough("compilers")
def test_the_flash_that_a_layer_costs():
    need(measure_flash.COMPILER)
    lines = measure_flash.table()
    folded, runtime, exact = ([int(number) for number in re.findall(r"(?<=\| )\d+", line)] for line in lines[4:])
    assert all(a < b for a, b in zip(folded, runtime))
    assert folded[1] == folded[3] == 0  # no RAM
    assert folded[0] - 8 * measure_flash.CHANNELS < 100  # the rest is the loop
    assert exact[1] < runtime[1]  # no constants
    page = measure_flash.PAGE.read_text("utf-8")
    if measure_flash.version() in page:  # another version of the compiler gives other counts
        assert "\n".join(lines) in page, "run: python runtimes/measure_flash.py --write"
