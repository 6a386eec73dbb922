// For test_float_bits.py: `decode DTYPE` prints the float32 value of every pattern, `round DTYPE`
// rounds the float32 values of stdin. Values and patterns travel as little-endian binary.
#include <cstdio>
#include <string_view>

#include "tensor/float_bits.h"

int main(int argc, char** argv) {
  using namespace weighbridge;
  if (argc != 3) return 2;
  const auto dtype = ParseShortName(argv[2]);
  if (!dtype) return 2;
  if (std::string_view(argv[1]) == "decode") {
    for (uint64_t raw = 0; raw < uint64_t{1} << BitsOf(*dtype); ++raw) {
      const auto value = static_cast<float>(BitsToDouble(*dtype, raw));
      std::fwrite(&value, sizeof(value), 1, stdout);
    }
    return 0;
  }
  float value;
  while (std::fread(&value, sizeof(value), 1, stdin) == 1) {
    const auto raw = static_cast<uint16_t>(RoundToBits(*dtype, value).value_or(0xffff));
    std::fwrite(&raw, sizeof(raw), 1, stdout);
  }
  return 0;
}
