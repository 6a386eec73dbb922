# Families and runtimes are data; the built program carries a copy (cmake/Embed.cmake writes a .cc for each folder).
function(weighbridge_embed folder table)
  file(GLOB inputs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.toml)
  set(embedded ${CMAKE_CURRENT_BINARY_DIR}/embedded_${folder}.cc)
  add_custom_command(OUTPUT ${embedded}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${embedded} -DTABLE=${table} "-DINPUTS=${inputs}"
            -P ${PROJECT_SOURCE_DIR}/cmake/Embed.cmake
    DEPENDS ${inputs} ${PROJECT_SOURCE_DIR}/cmake/Embed.cmake VERBATIM)
  target_sources(wb_family PRIVATE ${embedded})
endfunction()

weighbridge_embed(families EmbeddedFamilies)
weighbridge_embed(runtimes EmbeddedRuntimes)
