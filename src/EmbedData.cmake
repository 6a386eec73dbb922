# Families and runtimes are data; the built program carries a copy (tools/embed.cmake writes a .cc).
file(GLOB family_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/families/*.toml)
set(embedded ${CMAKE_CURRENT_BINARY_DIR}/embedded_families.cc)
add_custom_command(OUTPUT ${embedded}
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${embedded} "-DINPUTS=${family_files}"
          -P ${PROJECT_SOURCE_DIR}/cmake/Embed.cmake
  DEPENDS ${family_files} ${PROJECT_SOURCE_DIR}/cmake/Embed.cmake VERBATIM)
target_sources(wb_family PRIVATE ${embedded})
