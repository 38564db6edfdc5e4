#include "layers.h"

float values[head_bn_channels] = {0.5f, -0.25f, 1.0f, 2.0f};  // what the layer before it gave

void normalize(float *x) {
  for (int c = 0; c < head_bn_channels; c++)
    x[c] = head_bn_scale[c] * x[c] + head_bn_offset[c];
}

void setup() { Serial.begin(115200); }

void loop() {
  normalize(values);
  for (int c = 0; c < head_bn_channels; c++) {
    Serial.print(values[c], 9);
    Serial.print(" ");
  }
  Serial.println();
  delay(1000);
}
