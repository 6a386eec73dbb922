# Families, runtimes and the scripts of child processes are data; the built program carries a copy (cmake/Embed.cmake
# writes a .cc for each folder).
function(weighbridge_embed room folder ending table)
  file(GLOB inputs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.${ending})
  get_filename_component(name ${folder} NAME)
  set(embedded ${CMAKE_CURRENT_BINARY_DIR}/embedded_${name}.cc)
  add_custom_command(OUTPUT ${embedded}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${embedded} -DTABLE=${table} "-DINPUTS=${inputs}"
            -P ${PROJECT_SOURCE_DIR}/cmake/Embed.cmake
    DEPENDS ${inputs} ${PROJECT_SOURCE_DIR}/cmake/Embed.cmake VERBATIM)
  target_sources(wb_${room} PRIVATE ${embedded})
endfunction()

weighbridge_embed(family families toml EmbeddedFamilies)
weighbridge_embed(family runtimes toml EmbeddedRuntimes)
weighbridge_embed(engine src/engine/children py EmbeddedChildren)
