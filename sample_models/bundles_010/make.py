"""The encoder's bundle as version 0.1.0 of this program wrote it, in each form that is read back: later versions go on reading them.

pip install bn-export==0.1.0 (or the commit of that version). Run in this folder: python make.py. truth.json is that of the model.
"""
import shutil

import exporter

MODEL = "../encoder_keras3/model.keras"

assert exporter.__version__ == "0.1.0"
for suffix in ("json", "npz", "safetensors"):
    exporter.write(exporter.read(MODEL), f"encoder.{suffix}")
shutil.copy("../encoder_keras3/truth.json", "truth.json")
