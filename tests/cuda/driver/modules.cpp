#include "modules.hpp"
#include <cctype>
#include <cstring>
#include <string_view>

namespace standin {

std::map<std::string, std::map<std::string, Kernel>>& kernels()
{
    static std::map<std::string, std::map<std::string, Kernel>> all;
    return all;
}

} // namespace standin

namespace modules {

namespace {

// The number at the end of "name[16]", or else the width in the name of a type, ".u64" or ".b8".
size_t size_of(std::string_view declaration)
{
    if (const auto open = declaration.rfind('['); open != std::string_view::npos) return std::stoul(std::string(declaration.substr(open + 1)));
    for (size_t at = declaration.find('.'); at != std::string_view::npos; at = declaration.find('.', at + 1)) {
        const std::string_view type = declaration.substr(at + 1);
        if (type.size() > 1 && std::strchr("usfb", type[0]) != nullptr && std::isdigit(static_cast<unsigned char>(type[1]))) {
            return std::stoul(std::string(type.substr(1))) / 8;
        }
    }
    standin::die("a declaration in PTX that is not understood: " + std::string(declaration));
}

// The arrays in shared memory in a text, by their names.
std::map<std::string, size_t> shared_arrays(std::string_view text)
{
    std::map<std::string, size_t> found;
    const std::string_view word = ".shared ";
    for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
        const size_t line = text.rfind('\n', at) + 1, end = text.find(';', at);
        const std::string_view declaration = text.substr(at, end - at);
        if (text.substr(line, at - line).find("extern") != std::string_view::npos) continue;
        const auto open = declaration.rfind('[');
        if (open == std::string_view::npos || declaration.find('\n') != std::string_view::npos) continue;
        const auto start = declaration.rfind(' ', open) + 1;
        found[std::string(declaration.substr(start, open - start))] = size_of(declaration);
    }
    return found;
}

Function function(std::string_view entry, const std::map<std::string, size_t>& common)
{
    Function f;
    const size_t open = entry.find('('), close = entry.find("\n)", open);
    const size_t name_end = entry.find_first_of(" (\n");
    f.name = entry.substr(0, name_end);
    if (open == std::string_view::npos || close == std::string_view::npos) standin::die("PTX of kernel " + f.name + " that is not understood");
    const std::string_view list = entry.substr(open, close - open), body = entry.substr(close);
    const std::string_view word = ".param ";
    for (size_t at = list.find(word); at != std::string_view::npos; at = list.find(word, at + 1)) {
        f.sizes.push_back(size_of(list.substr(at, list.find_first_of(",\n", at) - at)));
    }
    if (const size_t at = body.find(".maxntid "); at != std::string_view::npos) {
        f.most_threads = 1;
        for (size_t i = at + 9; body[i] != '\n';) {
            const std::string number(body.substr(i, 12));
            size_t used = 0;
            f.most_threads *= static_cast<unsigned>(std::stoul(number, &used));
            i += used;
            while (body[i] == ',' || body[i] == ' ') ++i;
        }
    }
    for (const auto& [array, bytes] : common) {
        if (body.find(array) != std::string_view::npos) f.shared += bytes;
    }
    for (const auto& [array, bytes] : shared_arrays(body)) f.shared += bytes;
    f.most_dynamic = f.shared > f.most_dynamic ? 0 : f.most_dynamic - f.shared;
    return f;
}

} // namespace

Module* load(const char* ptx)
{
    const std::string_view text(ptx);
    if (text.find(".version ") == std::string_view::npos) standin::die("cuModuleLoadData was given something that is no PTX");
    const std::string_view word = "\n.visible .entry ";
    const size_t first = text.find(word);
    const auto common = shared_arrays(text.substr(0, first));
    auto* module = new Module{"candle", {}};
    for (size_t at = first; at != std::string_view::npos;) {
        const size_t start = at + word.size();
        at = text.find(word, start);
        Function f = function(text.substr(start, at == std::string_view::npos ? at : at - start), common);
        module->functions.emplace(f.name, std::move(f));
    }
    // Ours where one of our files has all of its kernels.
    for (const auto& [file, kernels] : standin::kernels()) {
        bool all = file != "candle" && !module->functions.empty();
        for (const auto& [name, f] : module->functions) all = all && kernels.count(name) != 0;
        if (all) module->file = file;
    }
    return module;
}

Function* find(Module* module, const std::string& name)
{
    const auto found = module->functions.find(name);
    if (found == module->functions.end()) return nullptr;
    Function& f = found->second;
    if (f.kernel == nullptr) {
        const auto& kernels = standin::kernels()[module->file];
        const auto kernel = kernels.find(name);
        if (kernel == kernels.end()) standin::die("nothing stands in for kernel " + name + " (" + module->file + "); tests/cuda/driver has the others");
        if (kernel->second.sizes != f.sizes) standin::die("what stands in for kernel " + name + " takes other parameters than its PTX says");
        f.kernel = &kernel->second;
    }
    return &f;
}

} // namespace modules
