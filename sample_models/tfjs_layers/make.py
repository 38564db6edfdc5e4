"""A TensorFlow.js layers model, written by TensorFlow.js itself: nested, a layer without beta and one without gamma.

npm install @tensorflow/tfjs@4.22.0 (Node.js 20). Run in this folder: python make.py. Writes model.json, weights.bin and truth.json.
"""
import json
import subprocess

SCRIPT = r"""
const tf = require('@tensorflow/tfjs');
const fs = require('fs');
let state = 7;
function random() { state = (state * 48271) % 2147483647; return state / 2147483647; }
const inner = tf.sequential({name: 'block'});
inner.add(tf.layers.dense({units: 5, inputShape: [4], name: 'fc'}));
inner.add(tf.layers.batchNormalization({name: 'bn', epsilon: 1e-5, center: false}));
const x = tf.input({shape: [4], name: 'x'});
let h = tf.layers.batchNormalization({name: 'stem_bn', momentum: 0.9}).apply(x);
h = inner.apply(h);
h = tf.layers.batchNormalization({name: 'head_bn', epsilon: 0.01, scale: false}).apply(h);
const model = tf.model({inputs: x, outputs: h, name: 'net'});
const truth = {};
function visit(layers, prefix) {
  for (const layer of layers) {
    if (layer.layers) { visit(layer.layers, prefix + layer.name + '/'); continue; }
    const values = layer.getWeights().map(
      weight => tf.tensor(Float32Array.from({length: weight.size}, () => random() * 2 - 0.5), weight.shape));
    if (layer.getClassName() === 'BatchNormalization') {
      const last = values.length - 1;
      values[last] = tf.tensor(Float32Array.from({length: values[last].size}, () => random() * random() + 1e-4), values[last].shape);
      layer.setWeights(values);
      const names = layer.weights.map(weight => weight.originalName.split('/').pop());
      const parameters = {gamma: null, beta: null, moving_mean: null, moving_variance: null};
      names.forEach((name, i) => { parameters[name] = Array.from(layer.getWeights()[i].dataSync()); });
      truth[prefix + layer.name] = {epsilon: layer.epsilon, axis: [layer.axis], parameters};
    } else if (values.length) { layer.setWeights(values); }
  }
}
visit(model.layers, '');
model.save(tf.io.withSaveHandler(async artifacts => {
  fs.writeFileSync('weights.bin', Buffer.from(tf.io.CompositeArrayBuffer.join(artifacts.weightData)));
  fs.writeFileSync('model.json', JSON.stringify({
    format: artifacts.format, generatedBy: artifacts.generatedBy, convertedBy: artifacts.convertedBy,
    modelTopology: artifacts.modelTopology,
    weightsManifest: [{paths: ['weights.bin'], weights: artifacts.weightSpecs}]}));
  return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
})).then(() => console.log(JSON.stringify(truth)));
"""

done = subprocess.run(["node", "-e", SCRIPT], capture_output=True, text=True, check=True)
with open("truth.json", "w") as file:
    json.dump(json.loads(done.stdout.strip().splitlines()[-1]), file, indent=1, sort_keys=True)
    file.write("\n")
