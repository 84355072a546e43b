// What is loaded: PTX, of which the kernels' names and needs are read and the rest left alone.
#pragma once
#include "standin.hpp"

namespace modules {

// Shared memory that a block can have on compute capability 9.0.
constexpr size_t MOST_SHARED = 227 << 10;

struct Function {
    std::string name;
    // Of the parameters in bytes.
    std::vector<size_t> sizes;
    // Shared memory that the kernel declares.
    size_t shared = 0;
    unsigned most_threads = 1024;
    // Dynamic shared memory that a launch may ask for.
    size_t most_dynamic = 48 << 10;
    const standin::Kernel* kernel = nullptr;
};

struct Module {
    // The file of ours that it comes from, or "candle".
    std::string file;
    std::map<std::string, Function> functions;
};

Module* load(const char* ptx);

// Nothing where the module has no such kernel; ends the program where nothing stands in for it.
Function* find(Module* module, const std::string& name);

} // namespace modules
