import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function PlaygroundPage() {
  return (
    <Page title="Playground">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
