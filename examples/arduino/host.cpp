// The names of Arduino that the sketch uses, and one turn of its loop.
#include <cstdio>

struct Console {
  void begin(long) {}
  void print(float value, int digits) { std::printf("%.*g", digits, value); }
  void print(const char *text) { std::printf("%s", text); }
  void println() { std::printf("\n"); }
} Serial;

void delay(int) {}

#include "sketch.ino"

int main() {
  setup();
  loop();
}
