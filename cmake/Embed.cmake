# cmake -DOUTPUT=x.cc -DTABLE=EmbeddedFamilies -DINPUTS="a.toml;b.toml" -P Embed.cmake
# Writes weighbridge::TABLE(): a sorted table of {file name without ending, text}.
set(rows "")
list(SORT INPUTS)
foreach(file IN LISTS INPUTS)
  get_filename_component(name "${file}" NAME_WE)
  file(READ "${file}" text)
  string(APPEND rows "    {\"${name}\", R\"embedded(${text})embedded\"},\n")
endforeach()
file(WRITE "${OUTPUT}" "#include \"family/embedded.h\"\n\nnamespace weighbridge {\nnamespace {\nconst EmbeddedFile kFiles[] = {\n${rows}    {\"\", \"\"}};\n}\nstd::span<const EmbeddedFile> ${TABLE}() { return {kFiles, sizeof(kFiles) / sizeof(kFiles[0]) - 1}; }\n}  // namespace weighbridge\n")
