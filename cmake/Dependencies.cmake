# Everything comes from Debian packages, simdjson as sources from PyPI (tools/bootstrap.sh fetches
# it: Debian ships simdjson as a shared library only, and the program links small things statically).
find_package(Threads REQUIRED)
find_package(CLI11 2.1 REQUIRED)
find_package(fmt 9.1 REQUIRED)
# Headers alone for the program that users run (Debian has no static library); builds that stay on the
# machine take the shared library, which saves about 2 s a source file.
add_library(weighbridge_fmt INTERFACE)
target_link_libraries(weighbridge_fmt INTERFACE
  $<IF:$<BOOL:${WEIGHBRIDGE_SHARED_FMT}>,fmt::fmt,fmt::fmt-header-only>)
find_package(tl-expected 1.0 REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(yaml-cpp 0.7 REQUIRED)

find_path(TOMLPLUSPLUS_INCLUDE_DIR toml++/toml.h REQUIRED)
add_library(weighbridge_toml INTERFACE)
target_include_directories(weighbridge_toml SYSTEM INTERFACE ${TOMLPLUSPLUS_INCLUDE_DIR})
target_compile_definitions(weighbridge_toml INTERFACE TOML_HEADER_ONLY=1 TOML_EXCEPTIONS=0)

find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
find_library(XXHASH_LIBRARY NAMES libxxhash.a REQUIRED)
add_library(weighbridge_xxhash INTERFACE)
target_include_directories(weighbridge_xxhash SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR})
target_link_libraries(weighbridge_xxhash INTERFACE ${XXHASH_LIBRARY})

# CRC-32 with the processor's carry-less multiplication; zlib's is several times slower.
find_path(LIBDEFLATE_INCLUDE_DIR libdeflate.h REQUIRED)
find_library(LIBDEFLATE_LIBRARY NAMES libdeflate.a REQUIRED)
add_library(weighbridge_libdeflate INTERFACE)
target_include_directories(weighbridge_libdeflate SYSTEM INTERFACE ${LIBDEFLATE_INCLUDE_DIR})
target_link_libraries(weighbridge_libdeflate INTERFACE ${LIBDEFLATE_LIBRARY})

# Debian's static yaml-cpp is not position-independent: a shared object (the Python module) can take it in only
# beside a static libstdc++, which builds with shared libraries do not have.
find_library(YAML_CPP_STATIC NAMES libyaml-cpp.a REQUIRED)
find_library(YAML_CPP_SHARED NAMES libyaml-cpp.so REQUIRED)
add_library(weighbridge_yaml INTERFACE)
target_link_libraries(weighbridge_yaml INTERFACE
  $<IF:$<BOOL:${WEIGHBRIDGE_SHARED_FMT}>,${YAML_CPP_SHARED},${YAML_CPP_STATIC}>)

if(NOT WEIGHBRIDGE_SIMDJSON_DIR)
  if(DEFINED ENV{WEIGHBRIDGE_SIMDJSON_DIR})
    set(WEIGHBRIDGE_SIMDJSON_DIR $ENV{WEIGHBRIDGE_SIMDJSON_DIR})
  elseif(DEFINED ENV{WEIGHBRIDGE_CACHE})
    set(WEIGHBRIDGE_SIMDJSON_DIR $ENV{WEIGHBRIDGE_CACHE}/deps/simdjson)
  else()
    set(WEIGHBRIDGE_SIMDJSON_DIR $ENV{HOME}/.cache/weighbridge/deps/simdjson)
  endif()
endif()
if(NOT EXISTS ${WEIGHBRIDGE_SIMDJSON_DIR}/simdjson.cpp)
  message(FATAL_ERROR "simdjson's sources are not in ${WEIGHBRIDGE_SIMDJSON_DIR}; "
    "run tools/bootstrap.sh, which installs every dependency")
endif()
add_library(weighbridge_simdjson STATIC ${WEIGHBRIDGE_SIMDJSON_DIR}/simdjson.cpp)
target_include_directories(weighbridge_simdjson SYSTEM PUBLIC ${WEIGHBRIDGE_SIMDJSON_DIR})
target_compile_definitions(weighbridge_simdjson PUBLIC SIMDJSON_EXCEPTIONS=0)
target_compile_options(weighbridge_simdjson PRIVATE -w -O2)
