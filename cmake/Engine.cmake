# The engine component: a shared library of its own, the only thing that sees libtorch. torch comes from its wheel
# (WEIGHBRIDGE_TORCH_DIR, the folder of the Python package), whose own CMake files would ask for the CUDA toolkit.
set(WEIGHBRIDGE_TORCH_DIR "" CACHE PATH "Folder of the installed torch package (the one with version.py)")
if(NOT EXISTS "${WEIGHBRIDGE_TORCH_DIR}/version.py")
  message(FATAL_ERROR "WEIGHBRIDGE_ENGINE needs torch: pass -DWEIGHBRIDGE_TORCH_DIR=FOLDER, or run `make engine`, "
                      "which installs it")
endif()
file(STRINGS "${WEIGHBRIDGE_TORCH_DIR}/version.py" torch_version_line REGEX "^__version__ = ")
string(REGEX REPLACE ".*'([^']*)'.*" "\\1" WEIGHBRIDGE_TORCH_VERSION "${torch_version_line}")
message(STATUS "Engine: torch ${WEIGHBRIDGE_TORCH_VERSION} in ${WEIGHBRIDGE_TORCH_DIR}")

foreach(library c10 torch_cpu)
  add_library(weighbridge_${library} SHARED IMPORTED)
  set_target_properties(weighbridge_${library} PROPERTIES
    IMPORTED_LOCATION "${WEIGHBRIDGE_TORCH_DIR}/lib/lib${library}.so"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${WEIGHBRIDGE_TORCH_DIR}/include"
    INTERFACE_INCLUDE_DIRECTORIES "${WEIGHBRIDGE_TORCH_DIR}/include")
endforeach()

file(GLOB engine_sources CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/src/engine/forward/*.cc
  ${PROJECT_SOURCE_DIR}/src/engine/hf/*.cc
  ${PROJECT_SOURCE_DIR}/src/engine/megatron/*.cc
  ${PROJECT_SOURCE_DIR}/src/engine/parallel/*.cc)
add_library(weighbridge_engine SHARED ${engine_sources})
target_include_directories(weighbridge_engine PRIVATE ${PROJECT_SOURCE_DIR}/src)
# torch's header for Gloo asks for Gloo's own, which its wheel lacks, and for those of torch's C++ interface.
set_source_files_properties(${PROJECT_SOURCE_DIR}/src/engine/parallel/team.cc PROPERTIES COMPILE_OPTIONS
  "-isystem;${PROJECT_SOURCE_DIR}/src/engine/parallel/gloo_headers;-isystem;${WEIGHBRIDGE_TORCH_DIR}/include/torch/csrc/api/include")
target_compile_definitions(weighbridge_engine PRIVATE USE_C10D_GLOO
  WEIGHBRIDGE_TORCH_VERSION="${WEIGHBRIDGE_TORCH_VERSION}"
  WEIGHBRIDGE_TORCH_FOLDER="${WEIGHBRIDGE_TORCH_DIR}")
target_link_libraries(weighbridge_engine PRIVATE weighbridge_c10 weighbridge_torch_cpu
  nlohmann_json::nlohmann_json weighbridge_flags)
# torch's headers are not written for these.
target_compile_options(weighbridge_engine PRIVATE -Wno-pedantic -Wno-shadow)
target_precompile_headers(weighbridge_engine PRIVATE <ATen/ATen.h> <nlohmann/json.hpp>)
# It throws across libtorch, so it has to have libtorch's C++ runtime; the program loads torch by its path before this,
# so nothing here says where it lies.
set_target_properties(weighbridge_engine PROPERTIES
  CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON LINK_OPTIONS "" SKIP_BUILD_RPATH ON
  LIBRARY_OUTPUT_DIRECTORY $<TARGET_FILE_DIR:weighbridge>)
install(TARGETS weighbridge_engine LIBRARY DESTINATION lib/weighbridge)

# NCCL's groups need libtorch_cuda, and headers that come with the wheels that a CUDA torch needs.
set(nvidia "${WEIGHBRIDGE_TORCH_DIR}/../nvidia")
file(GLOB cuda_headers "${nvidia}/cu*/include" "${nvidia}/cuda_runtime/include")
find_path(WEIGHBRIDGE_CUDA_INCLUDE cuda_runtime_api.h PATHS ${cuda_headers} /usr/local/cuda/include NO_DEFAULT_PATH)
find_path(WEIGHBRIDGE_NCCL_INCLUDE nccl.h PATHS "${nvidia}/nccl/include" NO_DEFAULT_PATH)
if(WEIGHBRIDGE_CUDA_INCLUDE AND WEIGHBRIDGE_NCCL_INCLUDE AND EXISTS "${WEIGHBRIDGE_TORCH_DIR}/lib/libtorch_cuda.so")
  foreach(library c10_cuda torch_cuda)
    add_library(weighbridge_${library} SHARED IMPORTED)
    set_target_properties(weighbridge_${library} PROPERTIES
      IMPORTED_LOCATION "${WEIGHBRIDGE_TORCH_DIR}/lib/lib${library}.so")
  endforeach()
  add_library(weighbridge_nccl SHARED ${PROJECT_SOURCE_DIR}/src/engine/nccl/nccl.cc)
  target_include_directories(weighbridge_nccl PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_include_directories(weighbridge_nccl SYSTEM PRIVATE ${WEIGHBRIDGE_CUDA_INCLUDE} ${WEIGHBRIDGE_NCCL_INCLUDE}
    ${WEIGHBRIDGE_TORCH_DIR}/include/torch/csrc/api/include)
  target_compile_definitions(weighbridge_nccl PRIVATE USE_C10D_NCCL)
  target_link_libraries(weighbridge_nccl PRIVATE weighbridge_c10 weighbridge_torch_cpu weighbridge_c10_cuda
    weighbridge_torch_cuda weighbridge_flags)
  target_compile_options(weighbridge_nccl PRIVATE -Wno-pedantic -Wno-shadow)
  # torch's libraries are in the process before this; the linker need not find what they need.
  set_target_properties(weighbridge_nccl PROPERTIES
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON SKIP_BUILD_RPATH ON
    LINK_OPTIONS "-Wl,--allow-shlib-undefined"
    LIBRARY_OUTPUT_DIRECTORY $<TARGET_FILE_DIR:weighbridge>)
  install(TARGETS weighbridge_nccl LIBRARY DESTINATION lib/weighbridge)
  add_dependencies(weighbridge_engine weighbridge_nccl)
else()
  message(STATUS "Engine: without NCCL (no CUDA headers beside torch): ranks on GPUs talk through Gloo")
endif()
