#include "cli/run.h"

int main(int argc, char** argv) { return weighbridge::cli::Run(argc, argv); }
