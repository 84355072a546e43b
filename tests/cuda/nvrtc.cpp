// Compiles one file by NVRTC for several architectures: nvrtc FILE ARCHITECTURE... A line each; ends with 1 on an error or a warning.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nvrtc.h>
#include <string>

int main(int count, char** arguments)
{
    if (count < 3) return 1;
    std::ifstream file(arguments[1]);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const char* slash = std::strrchr(arguments[1], '/');
    const char* name = slash != nullptr ? slash + 1 : arguments[1];
    bool failed = text.empty();
    for (int i = 2; i < count; ++i) {
        const std::string architecture = std::string("--gpu-architecture=") + arguments[i];
        const char* options[] = {architecture.c_str(), "--std=c++17"};
        nvrtcProgram program;
        if (nvrtcCreateProgram(&program, text.c_str(), name, 0, nullptr, nullptr) != NVRTC_SUCCESS) return 1;
        const bool compiled = nvrtcCompileProgram(program, 2, options) == NVRTC_SUCCESS;
        size_t size = 0;
        nvrtcGetProgramLogSize(program, &size);
        std::string log(size, '\0');
        nvrtcGetProgramLog(program, log.data());
        const bool silent = std::strlen(log.c_str()) == 0;
        std::printf("%s %s by NVRTC for %s\n%s", compiled && silent ? "ok    " : "FAILED", name, arguments[i], log.c_str());
        failed = failed || !compiled || !silent;
        nvrtcDestroyProgram(&program);
    }
    return failed;
}
